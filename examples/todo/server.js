// The server: one route to read, one to write, one to be woken, and the page. README.md tells how they go together.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import pg from "pg";
import { loginPage, todoPage } from "./page/view.js";
import { relay } from "./relay.js";
import { asUser, write } from "./writes.js";

const pool = new pg.Pool();
// A connection that breaks while nobody waits for an answer: whoever uses it next is told, and the pool opens another.
pool.on("error", () => {});
pool.on("connect", (db) => db.on("error", () => {}));

// What a browser keeps. The first shape has no filter: row security is one.
const SHAPES = `(VALUES ('mine', '{"tables": {"list": {}, "member": {}, "todo": {}}}'::jsonb),
  ('client', jsonb_build_object('params', jsonb_build_array($1::text), 'tables', '{"syncline.client": {"where": "client = $1"}}'::jsonb))
) AS shapes (id, shape)`;
// All shapes in one statement, so in one snapshot.
const PULL = `
  SELECT json_object_agg(id, CASE WHEN $3 THEN json_build_object('document', sync_pull(asked->>id, shape), 'digest', sync_digest(shape))
                                  ELSE sync_pull(asked->>id, shape) END)::text AS text
  FROM ${SHAPES}, CAST($2 AS jsonb) asked WHERE asked ? id`;
const PREVIEW = `SELECT p.relation, p.value FROM ${SHAPES}, sync_preview(shape) p WHERE id = 'mine' AND p.op = 'upsert'`;

const pull = (who, client, asked, digest = false) =>
  asUser(pool, who, async (db) => (await db.query(PULL, [client, asked, digest])).rows[0].text ?? "{}");

/** Rows as the page's library would give them, from documents of sync_pull. */
function rowsOf(documents) {
  return JSON.parse(documents).mine.changes.filter(({ op }) => op === "upsert");
}

const routes = {
  async "GET /"({ who, url }) {
    if (!who) return { html: loginPage() };
    const documents = await pull(who, null, '{"mine": null}');
    return { html: todoPage({ who, url, rows: rowsOf(documents), documents }) };
  },
  "GET /shell": async ({ who, url }) => ({ html: todoPage({ who, url }) }),
  // Everybody may be anybody: this is a demo. A real app has its users prove who they are.
  async "POST /login"({ form }) {
    const name = (await form()).name?.trim().slice(0, 40);
    return { to: "/", cookie: name ? `${encodeURIComponent(name)}; Max-Age=31536000` : "" };
  },
  async "POST /logout"() {
    return { to: "/", cookie: "; Max-Age=0" };
  },
  async "POST /sync"({ who, url, body }) {
    return { json: await pull(who, url.searchParams.get("client"), await body(), url.searchParams.has("digest")) };
  },
  async "POST /mutate"({ who, body }) {
    const answer = await write(pool, who, JSON.parse(await body()));
    return { status: answer.reason ? 422 : 200, json: JSON.stringify(answer) };
  },
  // Without JavaScript: the answer shows what the transaction that writes it sees.
  async "POST /form"({ who, url, form }) {
    const args = { id: randomUUID(), made: new Date().toISOString(), ...(await form()) };
    let rows;
    const read = async (db) => (rows = (await db.query(PREVIEW, [null])).rows);
    const { reason } = await write(pool, who, { name: url.searchParams.get("write"), args }, read);
    if (reason) await asUser(pool, who, read);
    return { html: todoPage({ who, url, rows, notice: reason, draft: reason ? args.title ?? args.name : "" }) };
  },
  async "GET /events"({ who, response }) {
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
    response.write(latest ? `data: ${latest}\n\n` : ": connected\n\n");
    browsers.set(response.on("close", () => browsers.delete(response)), who);
  },
};

// Who has a page open. News carry no data: each browser that they concern pulls what it lacks.
const browsers = new Map();
let latest = "";
function tell(news, concerns = () => true) {
  latest = news;
  for (const [browser, who] of browsers) if (concerns(who)) browser.write(`data: ${news}\n\n`);
}

// One connection waits for changes of any tracked table. They concern everybody.
async function wait() {
  const db = new pg.Client();
  db.on("error", () => {}); // The query fails as well.
  try {
    await db.connect();
    for (let changed = true; ; ) {
      const { position } = (await db.query("SELECT sync_position() AS position")).rows[0];
      if (changed) tell("");
      changed = (await db.query("CALL sync_wait($1, NULL, '20 s')", [position])).rows[0].changed;
    }
  } finally {
    await db.end().catch(() => {});
  }
}

/** Follows what is new for ever, by waiting or by the relay. */
async function follow() {
  const source = process.env.LIVE === "relay" ? () => relay(pool, tell) : wait;
  await source().catch((error) => console.error(`following what is new: ${error.message}`));
  setTimeout(follow, 500);
}

const TYPES = { js: "text/javascript", css: "text/css", svg: "image/svg+xml" };
const FOLDERS = { page: new URL("page/", import.meta.url), syncline: new URL("../../clients/js/src/", import.meta.url) };

async function answer(request, response) {
  const url = new URL(request.url, "http://localhost");
  const [, folder, file] = url.pathname.split("/");
  if (request.method === "GET" && Object.hasOwn(FOLDERS, folder) && file) {
    const bytes = await readFile(new URL(basename(file), FOLDERS[folder])).catch(() => null);
    const type = TYPES[file.split(".").at(-1)] ?? "text/plain";
    return response.writeHead(bytes ? 200 : 404, { "Content-Type": type, "Cache-Control": "no-cache", "Service-Worker-Allowed": "/" }).end(bytes);
  }
  const route = `${request.method} ${url.pathname}`;
  const who = decodeURIComponent(/(?:^|; )who=([^;]+)/.exec(request.headers.cookie)?.[1] ?? "") || null;
  if (!Object.hasOwn(routes, route)) return response.writeHead(404).end("not found");
  // A page says for whom it is: in another tab, somebody else may have logged in since.
  const page = url.searchParams.get("who") ?? who;
  if (page !== who || (!who && !["/", "/login"].includes(url.pathname))) return response.writeHead(401).end('{"message": "please log in"}');
  const body = async () => Buffer.concat(await request.toArray()).toString();
  const form = async () => Object.fromEntries(new URLSearchParams(await body()));
  const { html, json, status = 200, to, cookie } = (await routes[route]({ who, url, body, form, response })) ?? {};
  if (cookie !== undefined) response.setHeader("Set-Cookie", `who=${cookie}; Path=/; HttpOnly; SameSite=Strict`);
  if (to) response.writeHead(303, { Location: to }).end();
  else if (html ?? json) {
    const type = html ? "text/html; charset=utf-8" : "application/json";
    response.writeHead(status, { "Content-Type": type, "Cache-Control": "no-store" }).end(html ?? json);
  }
}

const server = http.createServer((request, response) => {
  answer(request, response).catch((error) => {
    console.error(`${request.method} ${request.url}: ${error.message}`);
    if (!response.headersSent) response.writeHead(503, { "Content-Type": "application/json" });
    response.end(JSON.stringify({ message: "try again", sqlstate: error.code }));
  });
});

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  follow();
  setInterval(() => browsers.forEach((_, browser) => browser.write(": still here\n\n")), 20_000);
  server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => console.log(`http://localhost:${server.address().port}/`));
  for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
}
