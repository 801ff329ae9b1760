// A database, a server and browsers for each test, and what is asked of them all.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { after, before } from "node:test";
import pg from "pg";
import { chromium } from "playwright-core";

const SCREENSHOTS = new URL("screenshots/", import.meta.url).pathname;
const FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync";
const WIDE = { width: 1200, height: 800 };
const NARROW = { width: 390, height: 844 };
/** The lists of sample.sql: Ada is a member of all, Ben of the first two. */
export const [GROCERIES, TRIP, READING] = [1, 2, 3].map((n) => `00000000-0000-4000-8000-00000000000${n}`);

let browser;
let databases = 0;
before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: FLAGS.split(" ") });
});
after(() => browser?.close());

const sql = (name) => readFile(new URL(`../${name}.sql`, import.meta.url), "utf8");

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Says a word to the program that holds the database server. */
export async function control(word) {
  await writeFile(process.env.SYNCLINE_CONTROL, `${word}\n`);
  const pipe = await open(process.env.SYNCLINE_ANSWER);
  assert.equal((await pipe.readFile("utf8")).trim(), "ok");
  await pipe.close();
}

/** A database with the sample data, and a server that can be killed. */
export class World {
  pages = [];

  /** @param {"wait" | "relay"} [live] where the server's news come from */
  static async make(t, live = "wait") {
    const world = new World();
    world.live = live;
    world.database = `todo_${process.pid}_${++databases}`;
    const admin = new pg.Client();
    await admin.connect();
    await admin.query(`CREATE DATABASE ${world.database}`);
    await admin.end();
    await world.query(`${await sql("schema")}; ${await sql("sample")}`);
    world.port = await freePort();
    world.address = `http://localhost:${world.port}`;
    await world.startServer();
    t.after(() => world.close());
    return world;
  }

  async query(text, values) {
    const db = new pg.Client({ database: this.database });
    await db.connect();
    try {
      return (await db.query(text, values)).rows;
    } finally {
      await db.end();
    }
  }

  async startServer() {
    const env = { ...process.env, PGDATABASE: this.database, PORT: String(this.port), LIVE: this.live };
    this.server = spawn(process.execPath, ["server.js"], { cwd: new URL("..", import.meta.url), env, stdio: ["ignore", "pipe", "inherit"] });
    await once(this.server.stdout, "data");
  }

  async killServer() {
    this.server.kill("SIGKILL");
    await once(this.server, "exit");
  }

  /** A browser of its own for somebody who has logged in. */
  async context(name, options = {}) {
    const context = await browser.newContext({ viewport: WIDE, ...options });
    context.setDefaultTimeout(20_000);
    await context.addCookies([{ name: "who", value: encodeURIComponent(name), url: this.address }]);
    return context;
  }

  async open(context, path = "/") {
    const page = await context.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(error));
    page.errors = errors;
    this.pages.push(page);
    await page.goto(this.address + path);
    await page.waitForFunction(() => globalThis.client !== undefined);
    return page;
  }

  /** Logs somebody in, in a browser of his own. */
  async visit(name, path, options) {
    return this.open(await this.context(name, options), path);
  }

  /** All that is written has arrived, and every copy has the database's digest for each of its shapes. */
  async assertConverged(...pages) {
    for (const page of pages) {
      await page.waitForFunction(() => client.pending.length === 0);
      const checked = await page.evaluate(() => client.check());
      const names = Object.keys(await page.evaluate(() => client.cursors));
      assert.deepEqual(Object.keys(checked).sort(), names.sort(), "every shape is answered");
      assert.deepEqual(Object.entries(checked).filter(([, same]) => !same), [], "every digest is the same");
      assert.deepEqual(page.errors, []);
    }
  }

  async close() {
    for (const context of new Set(this.pages.map((page) => page.context()))) await context.close();
    assert.equal(this.server.exitCode, null, "the server has stood it all");
    await this.killServer();
  }
}

// What a page shows, and waiting for it.
export const titles = (page) => page.locator(".todo .title").allTextContents();
export const todo = (page, title) => page.locator(".todo").filter({ has: page.locator(`.title:text-is(${JSON.stringify(title)})`) });
export const shown = (page, title) => todo(page, title).waitFor();
export const gone = (page, title) => todo(page, title).waitFor({ state: "detached" });
export const notice = (page) => page.locator(".notice").first().innerText();

/** Types a todo, and waits until it is shown. */
export async function add(page, title) {
  await page.fill("#new-todo", title);
  await page.press("#new-todo", "Enter");
  await shown(page, title);
}

/** At both widths, light and dark. */
export async function screenshots(page, name) {
  for (const [width, viewport] of Object.entries({ wide: WIDE, narrow: NARROW })) {
    await page.setViewportSize(viewport);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.screenshot({ path: `${SCREENSHOTS}${name}-${width}-${colorScheme}.png`, animations: "disabled" });
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize(WIDE);
}
