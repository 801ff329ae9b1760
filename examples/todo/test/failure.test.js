// Servers that die.

import assert from "node:assert/strict";
import { test } from "node:test";
import { add, control, screenshots, shown, titles, World } from "./support.js";

async function assertGoesOn(world, ada, ben, name, restart) {
  await ada.getByText("The server does not answer.").waitFor();
  if (world.live === "wait") await screenshots(ada, name);
  await restart();
  await shown(ben, "Written while it was dead");
  await ada.locator("#banner.shown").waitFor({ state: "detached" });
  await add(ben, "Written afterwards");
  await shown(ada, "Written afterwards");
  await world.assertConverged(ada, ben);
  assert.deepEqual(await titles(ada), await titles(ben));
}

for (const live of ["wait", "relay"]) {
  test(`PostgreSQL is killed with -9 and started again (${live})`, async (t) => {
    const world = await World.make(t, live);
    const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
    await add(ada, "Written before");
    await control("kill");
    await add(ada, "Written while it was dead");
    await assertGoesOn(world, ada, ben, "database-dead", () => control("start"));
  });

  test(`the Node server is killed and started again (${live})`, async (t) => {
    const world = await World.make(t, live);
    const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
    await world.killServer();
    await add(ada, "Written while it was dead");
    await assertGoesOn(world, ada, ben, "server-dead", () => world.startServer());
  });
}

test("a write whose answer is lost is applied once", async (t) => {
  const world = await World.make(t);
  const context = await world.context("Ada");
  let lost = 0;
  await context.route(/\/mutate\?/, async (route) => {
    await route.fetch();
    if (lost++ === 0) await route.abort();
    else await route.continue();
  });
  const ada = await world.open(context);
  await add(ada, "Once");
  await world.assertConverged(ada);
  assert.deepEqual(await ada.locator(".notice").count(), 0);
  const [{ count }] = await world.query("SELECT count(*)::int FROM todo WHERE title = 'Once'");
  assert.equal(count, 1);
});
