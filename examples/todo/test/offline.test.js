// Without a network, and what happens when it comes back.

import assert from "node:assert/strict";
import { test } from "node:test";
import { add, GROCERIES, gone, notice, screenshots, shown, titles, todo, World } from "./support.js";

async function rename(page, from, to) {
  await todo(page, from).locator(".title").click();
  await page.fill(".editing input[name=title]", to);
  await page.keyboard.press("Enter");
  await shown(page, to);
}

test("edits made offline on both sides converge", async (t) => {
  const world = await World.make(t);
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await ada.context().setOffline(true);
  await ben.context().setOffline(true);
  await ada.getByText("You are offline.").waitFor();
  await add(ada, "Ada's honey");
  await rename(ada, "Tomatoes, the small ones", "Tomatoes, cherry");
  await todo(ada, "Coffee beans").hover();
  await todo(ada, "Coffee beans").locator(".delete").click();
  await add(ben, "Ben's jam");
  await rename(ben, "Tomatoes, the small ones", "Tomatoes, plum");
  await rename(ben, "Coffee beans", "Espresso beans");
  await todo(ben, "Sourdough bread").locator(".check").click();
  await ada.locator(".mark").first().waitFor();
  await screenshots(ada, "offline");

  await ada.context().setOffline(false);
  await world.assertConverged(ada);
  await ben.context().setOffline(false);
  // Ada was first: her delete stands, and Ben is told; his later rename wins.
  assert.equal(await notice(ben), "The change to “Espresso beans” was not saved. It is no longer there, or no longer shared with you.");
  await world.assertConverged(ada, ben);
  await shown(ada, "Tomatoes, plum");
  assert.deepEqual(await titles(ada), await titles(ben));
  assert.deepEqual((await titles(ada)).sort(), ["Ada's honey", "Ben's jam", "Oat milk", "Olive oil", "Sourdough bread", "Tomatoes, plum"]);
  assert.equal(await ada.locator("#banner.shown").count(), 0);
});

test("a write that is refused late is explained, and can be dismissed", async (t) => {
  const world = await World.make(t);
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await ben.context().setOffline(true);
  await add(ben, "Butter");
  await add(ben, "Jam");
  await add(ada, "Butter");
  await world.assertConverged(ada);
  await ben.context().setOffline(false);
  assert.equal(await notice(ben), "“Butter” was not added. “Butter” is already on this list.");
  await shown(ada, "Jam");
  await screenshots(ben, "refused");
  await ben.getByRole("button", { name: "Dismiss" }).click();
  await ben.locator(".notice").waitFor({ state: "detached" });
  await world.assertConverged(ada, ben);
  assert.equal((await titles(ben)).filter((title) => title === "Butter").length, 1);
  const [{ count }] = await world.query("SELECT count(*)::int FROM todo WHERE title = 'Butter'");
  assert.equal(count, 1);
});

test("a copy from beyond retention starts over and keeps what was not sent", async (t) => {
  const world = await World.make(t);
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await ada.context().setOffline(true);
  await add(ada, "Written long ago");
  await todo(ben, "Oat milk").hover();
  await todo(ben, "Oat milk").locator(".delete").click();
  await add(ben, "Written meanwhile");
  await world.assertConverged(ben);
  await world.query("SELECT sync_prune('0')");
  const reset = ada.waitForResponse(async (response) => response.url().includes("/sync?") && (await response.text()).includes("too_old"));
  await ada.context().setOffline(false);
  await reset;
  await shown(ada, "Written meanwhile");
  await gone(ada, "Oat milk");
  await shown(ben, "Written long ago");
  await world.assertConverged(ada, ben);
  assert.deepEqual(await titles(ada), await titles(ben));
});

test("the page opens without a network, and has what was not sent before it was closed", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  const first = await world.open(context);
  await first.waitForFunction(() => globalThis.isKept);
  await context.setOffline(true);
  await add(first, "Not to be forgotten");
  await first.waitForFunction(() => client.pending.length === 1);
  await first.close();
  const page = await world.open(context);
  await page.getByText("You are offline.").waitFor();
  await page.locator(".todo.pending", { hasText: "Not to be forgotten" }).waitFor();
  await add(page, "Written on a train");
  await screenshots(page, "opened-offline");
  await context.setOffline(false);
  await world.assertConverged(page);
  const written = await world.query("SELECT title FROM todo WHERE list_id = $1 ORDER BY made DESC LIMIT 2", [GROCERIES]);
  assert.deepEqual(written.map(({ title }) => title), ["Written on a train", "Not to be forgotten"]);
});
