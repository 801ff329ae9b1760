// Without JavaScript, and by keyboard only.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { add, GROCERIES, notice, READING, screenshots, shown, titles, todo, World } from "./support.js";

test("without JavaScript the first paint is whole and forms work", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada", { javaScriptEnabled: false });
  const page = await context.newPage();
  t.after(() => context.close());
  await page.goto(world.address);
  assert.deepEqual(await titles(page), ["Sourdough bread", "Tomatoes, the small ones", "Coffee beans", "Olive oil", "Oat milk"]);
  await screenshots(page, "plain");

  await page.fill("#new-todo", "Pears <&> apples");
  await page.press("#new-todo", "Enter");
  assert.deepEqual((await titles(page)).slice(0, 4), ["Sourdough bread", "Tomatoes, the small ones", "Coffee beans", "Pears <&> apples"]);
  await page.fill("#new-todo", "Olive oil");
  await page.press("#new-todo", "Enter");
  assert.equal(await notice(page), "“Olive oil” is already on this list.");
  assert.equal(await page.inputValue("#new-todo"), "Olive oil", "what was typed is still there");
  await todo(page, "Pears <&> apples").locator(".check").click();
  await page.locator(".todo.done", { hasText: "Pears" }).waitFor();
  await todo(page, "Pears <&> apples").locator(".title").click();
  await page.fill(".editing input[name=title]", "Pears");
  await page.press(".editing input[name=title]", "Enter");
  await shown(page, "Pears");
  await todo(page, "Pears").hover();
  await todo(page, "Pears").locator(".delete").click();
  assert.equal((await titles(page)).includes("Pears"), false);
  const stored = await world.query("SELECT title FROM todo WHERE list_id = $1 ORDER BY done, made", [GROCERIES]);
  assert.deepEqual(await titles(page), stored.map(({ title }) => title));
});

test("a form sent without JavaScript reaches the other browsers", async (t) => {
  const world = await World.make(t);
  const ben = await world.visit("Ben");
  const context = await world.context("Ada", { javaScriptEnabled: false });
  t.after(() => context.close());
  const page = await context.newPage();
  await page.goto(world.address);
  await page.fill("#new-todo", "By hand");
  await page.press("#new-todo", "Enter");
  await shown(ben, "By hand");
  await world.assertConverged(ben);
});

test("logging in takes a name, and strangers are not served", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  t.after(() => context.close());
  await context.clearCookies();
  const page = await context.newPage();
  await page.goto(world.address);
  await screenshots(page, "login");
  assert.equal((await page.request.post(`${world.address}/sync`, { data: {} })).status(), 401);
  await page.fill("[name=name]", "Ben");
  await page.press("[name=name]", "Enter");
  await shown(page, "Coffee beans");
  assert.equal((await page.request.post(`${world.address}/sync?who=Ada`, { data: {} })).status(), 401);
  const answer = await page.request.post(`${world.address}/mutate?who=Ben`, {
    data: { client: "a stranger", id: 1, name: "addTodo", args: { id: randomUUID(), list_id: READING, title: "x", made: "2026-01-01" } },
  });
  assert.deepEqual([answer.status(), await answer.json()], [422, { reason: "It is no longer there, or no longer shared with you." }]);
});

test("a page for somebody who has logged out elsewhere says so, and does not write as somebody else", async (t) => {
  const world = await World.make(t);
  const ada = await world.visit("Ada");
  await ada.context().addCookies([{ name: "who", value: "Ben", url: world.address }]);
  await add(ada, "Whose is this?");
  await ada.getByText("You are logged in as somebody else").waitFor();
  await screenshots(ada, "stranger");
  assert.deepEqual(await world.query("SELECT FROM todo WHERE title = 'Whose is this?'"), []);
  await ada.context().addCookies([{ name: "who", value: "Ada", url: world.address }]);
  await ada.locator("#banner.shown").waitFor({ state: "detached" });
  await world.assertConverged(ada);
});

test("logging out empties the browser", async (t) => {
  const world = await World.make(t);
  const ada = await world.visit("Ada");
  await ada.waitForFunction(() => globalThis.isKept);
  await ada.getByRole("button", { name: "Log out" }).click();
  await ada.getByPlaceholder("Your name").waitFor();
  const kept = await ada.evaluate(async () => [await indexedDB.databases(), (await caches.match("/shell")) === undefined]);
  assert.deepEqual(kept, [[], true]);
});

test("a browser that keeps nothing works all the same, and says so", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  await context.addInitScript(() => {
    IDBFactory.prototype.open = () => {
      throw new DOMException("not in this window", "SecurityError");
    };
  });
  const [ada, ben] = [await world.open(context), await world.visit("Ben")];
  await ada.getByText("This browser keeps nothing for this page").waitFor();
  await add(ada, "From a private window");
  await shown(ben, "From a private window");
  await world.assertConverged(ada, ben);
});

test("everything can be done by keyboard", async (t) => {
  const world = await World.make(t);
  const page = await world.visit("Ada");
  const focus = () => page.evaluate(() => document.activeElement.closest(".todo")?.innerText.trim() ?? document.activeElement.id);
  await page.focus("#new-todo");
  await add(page, "Rice");
  assert.equal(await focus(), "new-todo", "the next one can be typed at once");
  assert.equal(await page.inputValue("#new-todo"), "");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("ArrowDown");
  assert.equal(await focus(), "Tomatoes, the small ones");
  await page.keyboard.press("Space");
  await page.locator(".todo.done", { hasText: "Tomatoes" }).waitFor();
  assert.equal(await focus(), "Tomatoes, the small ones", "the focus goes with what was toggled");
  await page.keyboard.press("Space");
  await page.locator(".todo:not(.done)", { hasText: "Tomatoes" }).waitFor();
  await page.keyboard.press("Enter");
  await page.locator(".editing input[name=title]").waitFor();
  await page.keyboard.type("Something else");
  await page.keyboard.press("Escape");
  await page.locator(".editing").waitFor({ state: "detached" });
  assert.equal(await focus(), "Tomatoes, the small ones");
  await screenshots(page, "keyboard");
  await page.keyboard.press("ArrowDown");
  await page.keyboard.press("Delete");
  assert.equal(await focus(), "Rice", "the focus is on what came next");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("ArrowUp");
  assert.equal(await focus(), "new-todo");
  await world.assertConverged(page);
  assert.equal((await titles(page)).includes("Coffee beans"), false);
});
