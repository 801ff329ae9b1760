// Several people and several tabs at once.

import assert from "node:assert/strict";
import { test } from "node:test";
import { add, GROCERIES, gone, notice, screenshots, shown, titles, todo, TRIP, World } from "./support.js";

test("what one user does, the other one sees", async (t) => {
  const world = await World.make(t);
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await add(ada, "Lemons");
  await shown(ben, "Lemons");
  await todo(ben, "Lemons").locator(".check").click();
  await ada.locator(".todo.done", { hasText: "Lemons" }).waitFor();
  await todo(ada, "Coffee beans").hover();
  await todo(ada, "Coffee beans").locator(".delete").click();
  await gone(ben, "Coffee beans");
  await screenshots(ada, "lists");
  await world.assertConverged(ada, ben);
  const waiting = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CALL sync_wait%'";
  assert.deepEqual(await world.query(waiting), [{ count: 1 }], "one connection waits for both");
  assert.deepEqual(await titles(ada), await titles(ben));
});

test("the documents of the first paint are taken over and not fetched again", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  const asked = [];
  context.on("request", (request) => request.url().includes("/sync?") && asked.push(request.postDataJSON()));
  const page = await world.open(context);
  await page.waitForFunction(() => client.cursors.client !== null);
  const without = Object.entries(asked[0]).filter(([, cursor]) => cursor === null).map(([shape]) => shape);
  assert.deepEqual(without, ["client"], "only the record of this very browser is not known to the server yet");
  assert.equal(Object.keys(asked[0]).length, 2);
  await world.assertConverged(page);
});

test("two tabs share copy and queue, and the second goes on when the first is closed", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  const [first, second] = [await world.open(context), await world.open(context)];
  await context.setOffline(true);
  await add(first, "Figs");
  await shown(second, "Figs");
  await context.setOffline(false);
  await add(second, "Dates");
  await shown(first, "Dates");
  await world.assertConverged(first, second);
  await first.close();
  const ben = await world.visit("Ben");
  await add(ben, "Raisins");
  await shown(second, "Raisins");
  await world.assertConverged(second, ben);
});

test("at a latency of 300 ms writes show at once, marked until they are confirmed", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  let answer;
  const mayAnswer = new Promise((resolve) => (answer = resolve));
  await context.route(/\/(sync|mutate|events)\?/, async (route) => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    if (route.request().url().includes("/mutate?")) await mayAnswer;
    await route.continue();
  });
  const ada = await world.open(context);
  for (const title of ["Peas", "Beans", "Corn"]) await add(ada, title);
  await ada.locator(".todo.pending", { hasText: "Corn" }).waitFor();
  await screenshots(ada, "pending");
  answer();
  await ada.locator(".todo.pending").first().waitFor({ state: "detached" });
  const ben = await world.visit("Ben");
  await world.assertConverged(ada, ben);
  assert.deepEqual(await titles(ada), await titles(ben));
});

test("a focused, half-typed input survives incoming changes", async (t) => {
  const world = await World.make(t);
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await ada.locator("#new-todo").pressSequentially("half a thou");
  await add(ben, "Salt");
  await shown(ada, "Salt");
  assert.equal(await ada.evaluate(() => document.activeElement.id), "new-todo");
  await ada.keyboard.type("ght");
  assert.equal(await ada.inputValue("#new-todo"), "half a thought");

  await todo(ada, "Coffee beans").locator(".title").click();
  const input = ada.locator(".editing input[name=title]");
  await input.fill("Coffee, ground");
  await input.press("Home");
  await todo(ben, "Coffee beans").locator(".check").click();
  await todo(ben, "Sourdough bread").hover();
  await todo(ben, "Sourdough bread").locator(".delete").click();
  await gone(ada, "Sourdough bread");
  await ada.locator(".divider ~ .editing").waitFor();
  await ada.keyboard.type("Good ");
  await screenshots(ada, "editing");
  await ada.keyboard.press("Enter");
  await ben.locator(".todo.done", { hasText: "Good Coffee, ground" }).waitFor();
  await world.assertConverged(ada, ben);
});

test("the list of somebody who is no longer a member disappears, with its rows", async (t) => {
  const world = await World.make(t);
  const [ada, ben] = [await world.visit("Ada", `/?list=${TRIP}`), await world.visit("Ben", `/?list=${TRIP}`)];
  await ben.getByRole("heading", { name: "Trip to the lake" }).waitFor();
  await ada.locator("#members summary").click();
  await screenshots(ada, "members");
  await ada.getByRole("button", { name: "Remove Ben" }).click();
  await ben.getByRole("heading", { name: "Groceries" }).waitFor();
  assert.equal(await notice(ben), "You are no longer a member of “Trip to the lake”.");
  const held = () => ["list", "member", "todo"].flatMap((relation) => client.rows("mine", relation).map((row) => row.list_id ?? row.id));
  assert.deepEqual([...new Set(await ben.evaluate(held))], [GROCERIES]);
  assert.deepEqual(await ben.locator("#tabs a span").allTextContents(), ["Groceries"]);
  await screenshots(ben, "removed");
  await world.assertConverged(ada, ben);

  await ada.fill("#new-member", "Ben");
  await ada.press("#new-member", "Enter");
  await ben.locator("#tabs a", { hasText: "Trip to the lake" }).click();
  await shown(ben, "Download the map");
  await world.assertConverged(ada, ben);
});

test("who is taken off a list loses its rows as deletes of the shape that he keeps", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ben");
  const answers = [];
  context.on("response", (response) => response.url().includes("/sync?") && answers.push(response.text()));
  const ben = await world.open(context);
  await world.assertConverged(ben);
  answers.length = 0;
  await world.query("DELETE FROM member WHERE list_id = $1 AND name = 'Ben'", [TRIP]);
  await ben.locator("#tabs a", { hasText: "Trip to the lake" }).waitFor({ state: "detached" });
  await world.assertConverged(ben);
  const changes = (await Promise.all(answers)).flatMap((text) => JSON.parse(text).mine?.changes ?? []);
  // The list, its three members and its four todos, of which nobody wrote more than one.
  assert.deepEqual(changes.map(({ op, relation }) => `${op} ${relation}`).sort(),
    ["delete list", ...Array(3).fill("delete member"), ...Array(4).fill("delete todo")]);
});

test("a list that somebody makes and shares appears with the other one", async (t) => {
  const world = await World.make(t);
  const [ada, dora] = [await world.visit("Ada"), await world.visit("Dora")];
  await dora.getByRole("heading", { name: "No lists yet" }).waitFor();
  await screenshots(dora, "welcome");
  await ada.fill("#new-list", "Party");
  await ada.press("#new-list", "Enter");
  await ada.getByRole("heading", { name: "Party" }).waitFor();
  await screenshots(ada, "empty");
  await add(ada, "Balloons");
  await ada.locator("#members summary").click();
  await ada.fill("#new-member", "Dora");
  await ada.press("#new-member", "Enter");
  await dora.getByRole("heading", { name: "Party" }).waitFor();
  await shown(dora, "Balloons");
  await world.assertConverged(ada, dora);
});
