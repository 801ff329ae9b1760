// What the page looks like: a function of the rows, for the server's first paint and for the browser alike.

class Html {
  constructor(text) {
    this.text = text;
  }
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

function textOf(value) {
  if (value instanceof Html) return value.text;
  if (Array.isArray(value)) return value.map(textOf).join("");
  return value === null || value === undefined || value === false ? "" : String(value).replace(/[&<>"']/g, (char) => ESCAPES[char]);
}

/** A template whose values are escaped. */
function html(strings, ...values) {
  return new Html(strings.reduce((text, string, i) => text + textOf(values[i - 1]) + string));
}

/**
 * The lists of a user, with their members and todos.
 *
 * @param {{ relation: string, value: any }[]} rows
 */
export function listsOf(rows) {
  const lists = new Map();
  for (const { relation, value } of rows) {
    if (relation === "list") lists.set(value.id, { ...value, members: [], todos: [] });
  }
  for (const { relation, value } of rows) {
    const list = lists.get(value.list_id);
    if (relation === "member") list?.members.push(value.name);
    if (relation === "todo") list?.todos.push(value);
  }
  for (const { members, todos } of lists.values()) {
    members.sort((a, b) => a.localeCompare(b));
    todos.sort((a, b) => a.done - b.done || (a.made < b.made ? -1 : 1));
  }
  return [...lists.values()].sort((a, b) => a.title.localeCompare(b.title) || (a.id < b.id ? -1 : 1));
}

const ICONS = {
  check: "M3.5 8.5l3 3 6-7",
  cross: "M4 4l8 8M12 4l-8 8",
  clock: "M8 4.5V8l2.3 1.6M8 14A6 6 0 108 2a6 6 0 000 12z",
  cloud: "M2 2l12 12M6 4.3A4 4 0 0112 7a3 3 0 011.6 5M11 13H5a3 3 0 01-.8-5.9",
};
const icon = (name) => html`<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
const action = (write, list) => `/form?write=${write}${list ? `&list=${list.id}` : ""}`;
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

/** The hue of a name, so that a person has the same colour everywhere. */
function avatar(name) {
  const hue = [...name].reduce((sum, char) => (sum * 31 + char.codePointAt(0)) % 360, 7);
  return html`<span class="avatar" style="--hue: ${hue}" aria-hidden="true">${[...name][0].toUpperCase()}</span>`;
}

function todoItem(list, todo, { editing, pending }) {
  if (editing === todo.id) {
    return html`<li id="todo-${todo.id}" class="todo editing">
      <form id="edit-${todo.id}" method="post" action="${action("renameTodo", list)}">
        <input type="hidden" name="id" value="${todo.id}">
        <input id="text-${todo.id}" name="title" value="${todo.title}" aria-label="Change “${todo.title}”" maxlength="200" autocomplete="off" autofocus>
        <button class="quiet">Save</button>
        <a id="cancel-${todo.id}" class="button quiet" href="/?list=${list.id}">Cancel</a>
      </form></li>`;
  }
  const waits = pending.has(todo.id);
  return html`<li id="todo-${todo.id}" class="todo${todo.done && " done"}${waits && " pending"}">
    <form id="do-${todo.id}" method="post" action="${action("checkTodo", list)}">
      <input type="hidden" name="id" value="${todo.id}">
      <button id="check-${todo.id}" class="check" role="checkbox" aria-checked="${todo.done ? "true" : "false"}"
        name="done" value="${todo.done ? "false" : "true"}" aria-label="${todo.title}">${icon("check")}</button>
    </form>
    <a id="title-${todo.id}" class="title" href="/?list=${list.id}&edit=${todo.id}" draggable="false">${todo.title}</a>
    ${waits && html`<span id="mark-${todo.id}" class="mark" role="img" aria-label="not sent yet" title="Not sent yet">${icon("clock")}</span>`}
    <form id="drop-${todo.id}" method="post" action="${action("deleteTodo", list)}">
      <input type="hidden" name="id" value="${todo.id}">
      <button id="delete-${todo.id}" class="delete" aria-label="Delete “${todo.title}”">${icon("cross")}</button>
    </form></li>`;
}

function members(list, { who, pending }) {
  return html`<details id="members">
    <summary aria-label="Members: ${list.members.join(", ")}"><span class="avatars">${list.members.slice(0, 4).map(avatar)}</span><span class="share">Share</span></summary>
    <div id="members-panel" class="panel">
      <ul id="members-list">${list.members.map((name) => html`<li id="member-${list.id}-${name}" class="${pending.has(`${list.id} ${name}`) && "pending"}">
        ${avatar(name)}<span class="name">${name}${name === who && html` <small>you</small>`}</span>
        <form method="post" action="${action("removeMember", list)}">
          <input type="hidden" name="list_id" value="${list.id}"><input type="hidden" name="name" value="${name}">
          <button class="quiet" aria-label="${name === who ? "Leave this list" : `Remove ${name}`}">${name === who ? "Leave" : "Remove"}</button>
        </form></li>`)}</ul>
      <form id="add-member" class="field" method="post" action="${action("addMember", list)}">
        <input type="hidden" name="list_id" value="${list.id}">
        <input id="new-member" name="name" placeholder="Add somebody by name" aria-label="Name of the new member" maxlength="40" required autocomplete="off">
        <button>Invite</button>
      </form>
    </div></details>`;
}

const LOADING = html`<main id="main" aria-busy="true"><h1 class="ghost">Loading…</h1><div class="ghost"></div><div class="ghost"></div></main>`;

function listMain(list, state) {
  const open = list.todos.filter(({ done }) => !done).length;
  const done = list.todos.length - open;
  return html`<main id="main">
    <header id="head"><div id="heading"><h1>${list.title}</h1>
      <p class="sub">${open === 0 ? (done ? "All done" : "Empty") : `${open} to do`}${done > 0 && open > 0 && `, ${done} done`}</p></div>
      ${members(list, state)}</header>
    <form id="add-todo" class="field add" method="post" action="${action("addTodo", list)}">
      <input type="hidden" name="list_id" value="${list.id}">
      <input id="new-todo" name="title" value="${state.draft}" placeholder="Add a todo" aria-label="New todo" maxlength="200" required autocomplete="off" enterkeyhint="done">
      <button>Add</button>
    </form>
    ${list.todos.length === 0 && html`<p id="empty" class="empty">${icon("check")}<span>Nothing to do. What you add is seen by everyone on this list, at once.</span></p>`}
    <ul id="todos" aria-label="Todos">
      ${list.todos.slice(0, open).map((todo) => todoItem(list, todo, state))}
      ${done > 0 && html`<li id="divider" class="divider">Done</li>`}
      ${list.todos.slice(open).map((todo) => todoItem(list, todo, state))}
    </ul></main>`;
}

const WELCOME = html`<main id="main" class="welcome"><span class="logo">${icon("check")}</span><h1>No lists yet</h1>
  <p>Name your first one, or ask somebody to share theirs with you: it appears here by itself.</p></main>`;

function banner({ status, waiting }) {
  if (!status) return html`<div id="banner" role="status"></div>`;
  const kept = waiting > 0 ? `${count(waiting, "change")} kept on this device, to be sent later.` : "You can go on: changes are kept on this device.";
  const texts = {
    offline: `You are offline. ${kept}`,
    unreachable: `The server does not answer. ${kept}`,
    stranger: "You are logged in as somebody else, or not at all. Reload the page to go on.",
    forgetful: "This browser keeps nothing for this page: unsent changes are lost when you close it.",
  };
  return html`<div id="banner" class="shown" role="status">${icon("cloud")}<span>${texts[status]}</span></div>`;
}

/**
 * The inside of the page.
 *
 * @param {{ who: string, lists: ReturnType<typeof listsOf> | null, current: string | null, editing: string | null, pending: Set<string>,
 *   waiting: number, status: string | null, notices: { id: number, text: string }[], draft: string }} state
 */
export function app(state) {
  const { who, lists, current, notices, waiting, status } = state;
  const list = lists?.find(({ id }) => id === current) ?? lists?.[0];
  return html`${banner(state)}
    <header id="top"><a class="brand" href="/"><span class="logo">${icon("check")}</span>Tandem</a>
      <span id="saved" class="saved">${waiting > 0 ? `${waiting} unsent` : status ? "" : "All saved"}</span>
      <form id="logout" method="post" action="/logout">${avatar(who)}<span class="name">${who}</span><button class="quiet">Log out</button></form></header>
    <nav id="lists" aria-label="Lists"><div id="tabs">${lists?.map((one) => {
      const open = one.todos.filter(({ done }) => !done).length;
      return html`<a id="list-${one.id}" href="/?list=${one.id}"${one === list && html` aria-current="page"`}><span>${one.title}</span>${open > 0 && html`<b aria-label="${open} to do">${open}</b>`}</a>`;
    })}</div>
      <form id="add-list" class="field" method="post" action="${action("addList", list)}">
        <input id="new-list" name="title" placeholder="New list" aria-label="Name of the new list" maxlength="80" required autocomplete="off">
        <button aria-label="Add the list">Add</button>
      </form></nav>
    ${!lists ? LOADING : list ? listMain(list, state) : WELCOME}
    <aside id="notices" role="alert">${notices.map(({ id, text }) => html`<div id="notice-${id}" class="notice"><span>${text}</span><button class="quiet dismiss" value="${id}" aria-label="Dismiss">${icon("cross")}</button></div>`)}</aside>`.text;
}

function page(title, attributes, body) {
  return html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<link rel="icon" href="/page/icon.svg"><link rel="stylesheet" href="/page/style.css"></head>
<body${attributes}>${body}</body></html>`.text;
}

export function loginPage() {
  return page("Tandem", html` class="login"`, html`<form method="post" action="/login" class="card">
    <span class="logo">${icon("check")}</span><h1>Tandem</h1><p>Shared todo lists that go on working without a network.</p>
    <div class="field"><input name="name" placeholder="Your name" aria-label="Your name" maxlength="40" required autofocus autocomplete="username"><button>Go on</button></div>
    <p class="fine">This is a demo: there are no passwords, and everybody may be anybody. Try <button class="link" name="name" value="Ada" formnovalidate>Ada</button>
      or <button class="link" name="name" value="Ben" formnovalidate>Ben</button>.</p></form>`);
}

/**
 * The whole page. `documents` are those of sync_pull, to be taken over by the page's library; without rows it is one that
 * waits for the browser's own.
 */
export function todoPage({ who, url, rows, documents, notice, draft = "" }) {
  const state = {
    who, draft, lists: rows ? listsOf(rows) : null, current: url.searchParams.get("list"), editing: url.searchParams.get("edit"),
    pending: new Set(), waiting: 0, status: null, notices: notice ? [{ id: 0, text: notice }] : [],
  };
  return page("Tandem", html` data-who="${who}"`, html`<div id="app">${new Html(app(state))}</div>
<div id="documents" hidden>${documents}</div><script type="module" src="/page/page.js"></script>`);
}
