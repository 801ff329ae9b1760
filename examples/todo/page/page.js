// The page in the browser: rows come from the local store, writes go through it, the network is Syncline's.

import { Client, events, httpPull, httpPush, indexedDb, memory } from "/syncline/index.js";
import { morph } from "./morph.js";
import { connection } from "./connection.js";
import { forgetPage, keepPage } from "./keep.js";
import { mutators } from "./mutators.js";
import { app, listsOf } from "./view.js";

const { who } = document.body.dataset;
const address = (path) => `${path}?who=${encodeURIComponent(who)}`;
const element = (id) => document.getElementById(id);
const parameter = (name) => new URLSearchParams(location.search).get(name);

// What the server rendered is replaced by what is typed and looked at here.
const state = { who, draft: "", current: parameter("list"), editing: parameter("edit"), notices: [] };
let forgetful = false;
let noticeCount = 0;

async function storage() {
  try {
    const kept = indexedDb(`todo of ${who}`);
    await kept.get(["client"]);
    return kept;
  } catch {
    // A private window, say.
    forgetful = true;
    return memory();
  }
}

// The first pull was made by the server with the page.
let documents = element("documents").textContent;
function delivered({ cursors, digest }) {
  const text = documents;
  documents = "";
  return !digest && Object.values(cursors).every((cursor) => cursor === null) ? text : "";
}

const network = connection(() => render());
const pull = httpPull(address("/sync"));
const client = await Client.open({
  shapes: ["mine", "client"],
  storage: await storage(),
  pull: network.watch(async (request) => delivered(request) || pull(request)),
  push: network.watch(httpPush(address("/mutate"))),
  mutators: mutators(who),
  onRejected: (mutation, reason) => notify(`${attempted(mutation)} ${reason}`),
});

function notify(text) {
  state.notices = [...state.notices.slice(-2), { id: ++noticeCount, text }];
  render();
}

/** What somebody wanted, in words: by the time it is refused he may be doing something else. */
function attempted({ name, args }) {
  const words = {
    addList: `The list “${args.title}” was not made.`,
    addTodo: `“${args.title}” was not added.`,
    renameTodo: `The change to “${args.title}” was not saved.`,
    addMember: `${args.name} was not added.`,
  };
  return words[name] ?? "A change was not saved.";
}

// Lists -----------------------------------------------------------------------------------------------

/** Titles of the lists that the server has given, by id. */
const known = new Map();
const left = new Set();

const rows = () =>
  ["list", "member", "todo"].flatMap((relation) => client.rows("mine", relation).map((value) => ({ relation, value })));

/** A list that goes, with its rows, is one that somebody else took him off. */
function noticeLists(lists, pending) {
  if (lists === null) return;
  for (const { id, title } of lists) if (!pending.has(id)) known.set(id, title);
  for (const [id, title] of known) {
    if (lists.some((list) => list.id === id)) continue;
    known.delete(id);
    if (!left.delete(id)) notify(`You are no longer a member of “${title}”.`);
  }
}

// Showing ---------------------------------------------------------------------------------------------

let isDue = false;
function render() {
  if (isDue) return;
  isDue = true;
  queueMicrotask(() => {
    isDue = false;
    const lists = client.cursors.mine === null ? null : listsOf(rows());
    const pending = new Set(client.pending.map(({ name, args }) => (name.endsWith("Member") ? `${args.list_id} ${args.name}` : args.id)));
    const status = network.status() ?? (forgetful ? "forgetful" : null);
    const focused = document.activeElement?.closest(".todo");
    morph(element("app"), app({ ...state, lists, pending, waiting: client.pending.length, status }));
    // Where the focus was there may be nothing any more: somebody else deleted it.
    if (focused && !focused.isConnected) element("new-todo")?.focus();
    noticeLists(lists, pending);
  });
}

function edit(id) {
  const before = state.editing;
  state.editing = id;
  render();
  queueMicrotask(() => {
    if (id) element(`text-${id}`)?.select();
    else element(`title-${before}`)?.focus();
  });
}

// What is done here -----------------------------------------------------------------------------------

async function write(name, args) {
  try {
    await client.mutate(name, args);
  } catch (error) {
    notify(`${attempted({ name, args })} This browser could not store it: ${error.message}`);
  }
}

function submitted(form, submitter) {
  const parameters = new URL(form.action).searchParams;
  const name = parameters.get("write");
  const args = { list_id: parameters.get("list"), ...Object.fromEntries(new FormData(form, submitter)) };
  const words = args.title ?? args.name;
  if (words !== undefined && words.trim() === "") return;
  if (name === "addTodo" || name === "addList") Object.assign(args, { id: crypto.randomUUID(), made: new Date().toISOString() });
  if (name.startsWith("add")) form.reset();
  if (name === "checkTodo") args.done = args.done === "true";
  if (name === "deleteTodo") beside(form.closest(".todo"))?.focus();
  if (name === "removeMember" && args.name === who) left.add(args.list_id);
  if (name === "renameTodo") {
    edit(null);
    if (words === form.elements.title.defaultValue) return;
  }
  write(name, args);
  if (name === "addList") {
    open(args.id);
    queueMicrotask(() => element("new-todo")?.focus());
  }
}

/** Where the focus goes when this item is deleted. */
function beside(item) {
  const items = [...element("todos").querySelectorAll(".todo")];
  const at = items.indexOf(item);
  return (items[at + 1] ?? items[at - 1])?.querySelector(".title") ?? element("new-todo");
}

function open(id) {
  state.current = id;
  state.editing = null;
  history.pushState(null, "", `/?list=${id}`);
  render();
}

document.addEventListener("submit", (event) => {
  const path = new URL(event.target.action).pathname;
  if (path === "/login") return;
  event.preventDefault();
  if (path === "/logout") logOut(event.target);
  else submitted(event.target, event.submitter);
});

async function logOut(form) {
  const unsent = client.pending.length;
  if (unsent > 0 && !confirm("There are changes that have not been sent yet. Log out and lose them?")) return;
  await client.close();
  await forgetPage();
  indexedDB.deleteDatabase(`todo of ${who}`);
  form.submit();
}

document.addEventListener("click", (event) => {
  const dismiss = event.target.closest(".dismiss");
  if (dismiss) {
    state.notices = state.notices.filter(({ id }) => id !== Number(dismiss.value));
    return render();
  }
  const link = event.target.closest('a[href^="/?"]');
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const to = new URL(link.href).searchParams;
  if (link.closest("#lists")) open(to.get("list"));
  else edit(to.get("edit"));
});

document.addEventListener("keydown", (event) => {
  const { target, key } = event;
  const item = target.closest(".todo");
  if (key === "Escape") {
    if (state.editing) edit(null);
    else target.closest("details")?.removeAttribute("open");
  } else if ((key === "ArrowDown" || key === "ArrowUp") && (item || target.id === "new-todo") && !state.editing) {
    const items = [...element("todos").querySelectorAll(".todo")];
    const next = items.indexOf(item) + (key === "ArrowDown" ? 1 : -1);
    if (next >= items.length || next < -1) return;
    event.preventDefault();
    const column = target.matches(".check") ? ".check" : ".title";
    (items[next]?.querySelector(column) ?? element("new-todo")).focus();
  } else if (item && target.matches(".title") && key === " ") {
    event.preventDefault();
    item.querySelector(".check").click();
  } else if (item && key === "Delete" && target.matches(".title, .check")) {
    item.querySelector(".delete").click();
  }
});

addEventListener("popstate", () => {
  state.current = parameter("list");
  render();
});

// From here on the store speaks. A page that answered a form is not to be sent again when it is reloaded.
if (location.pathname !== "/") history.replaceState(null, "", state.current ? `/?list=${state.current}` : "/");
await client.pull().catch(() => {});
client.subscribe(render);
render();
client.start({ events: network.follow(events(address("/events"))), retry: { longest: 5000 } });
// For the console, and for the tests.
globalThis.client = client;
// Without it the page still works, but cannot be opened without a network.
keepPage().then(() => (globalThis.isKept = true), console.warn);
