// The relay as the source of news: whom it tells, and of what.

import assert from "node:assert/strict";
import { test } from "node:test";
import pg from "pg";
import { Seen } from "../../../clients/js/src/cursor.js";
import { events } from "../../../clients/js/src/index.js";
import { add, GROCERIES, gone, shown, titles, todo, TRIP, World } from "./support.js";

/** Writes to a list; the id of the transaction. */
async function write(world, list) {
  const sql = "UPDATE todo SET done = NOT done WHERE list_id = $1 RETURNING pg_current_xact_id()::text AS xid";
  return BigInt((await world.query(sql, [list]))[0].xid);
}

test("what one user does, the others on his lists see, and nobody else is told", async (t) => {
  const world = await World.make(t, "relay");
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await add(ada, "Lemons");
  await shown(ben, "Lemons");
  await todo(ben, "Lemons").locator(".check").click();
  await ada.locator(".todo.done", { hasText: "Lemons" }).waitFor();
  await world.query("DELETE FROM todo WHERE title = 'Coffee beans'");
  await gone(ben, "Coffee beans");
  await gone(ada, "Coffee beans");
  await world.assertConverged(ada, ben);
  assert.deepEqual(await titles(ada), await titles(ben));

  // Cleo is on one of their lists. As soon as the relay knows that, she is told of that one only.
  const stop = new AbortController();
  const told = events(`${world.address}/events`, { headers: { Cookie: "who=Cleo" } })(stop.signal);
  let count;
  for (let round = 0; round < 20 && count !== 1; round++) {
    await write(world, GROCERIES);
    const xid = await write(world, TRIP);
    for (count = 1; !Seen.parse((await told.next()).value)?.sees(xid); count++);
  }
  stop.abort();
  assert.equal(count, 1, "of two commits one concerns her");

  const waiting = "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CALL sync_wait%'";
  assert.deepEqual(await world.query(waiting), [{ count: 0 }], "nobody waits");
  const slots = "SELECT temporary, active FROM pg_replication_slots WHERE database = current_database()";
  assert.deepEqual(await world.query(slots), [{ temporary: true, active: true }]);
});

test("who is taken off a list loses it, and gets it back with its membership", async (t) => {
  const world = await World.make(t, "relay");
  const [ada, ben] = [await world.visit("Ada", `/?list=${TRIP}`), await world.visit("Ben", `/?list=${TRIP}`)];
  await world.query("DELETE FROM member WHERE list_id = $1 AND name = 'Ben'", [TRIP]);
  await ben.getByRole("heading", { name: "Groceries" }).waitFor();
  await ada.locator("#members summary").click();
  await ada.fill("#new-member", "Ben");
  await ada.press("#new-member", "Enter");
  await ben.locator("#tabs a", { hasText: "Trip to the lake" }).click();
  await shown(ben, "Download the map");
  await world.query("DELETE FROM list WHERE id = $1", [TRIP]);
  await ben.getByRole("heading", { name: "Groceries" }).waitFor();
  await world.assertConverged(ada, ben);
});

test("a table that is emptied, which the stream cannot tell, is shown so, and the relay goes on", async (t) => {
  const world = await World.make(t, "relay");
  const [ada, ben] = [await world.visit("Ada"), await world.visit("Ben")];
  await world.query("TRUNCATE todo");
  await gone(ben, "Coffee beans");
  for (const title of ["Lemons", "Limes"]) {
    await add(ada, title);
    await shown(ben, title);
  }
  await world.assertConverged(ada, ben);
});

test("a commit that waits for a standby shows when it is visible, though it was told of before", async (t) => {
  const world = await World.make(t, "relay");
  const nobody = async (name) => {
    await world.query(`ALTER SYSTEM ${name ? `SET synchronous_standby_names = ${name}` : "RESET synchronous_standby_names"}`);
    await world.query("SELECT pg_reload_conf()");
  };
  t.after(() => nobody(null));
  await world.query(`ALTER DATABASE ${world.database} SET synchronous_commit = 'local'`);
  await world.killServer();
  await world.startServer();
  const ada = await world.visit("Ada");
  await nobody("nobody");
  const db = new pg.Client({ database: world.database });
  await db.connect();
  t.after(() => db.end());
  await db.query("SET synchronous_commit = 'on'");
  const held = db.query("INSERT INTO todo VALUES (gen_random_uuid(), $1, 'Held up', false, now())", [GROCERIES]);
  while ((await world.query("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'")).length === 0);
  // Told of it once, it pulls until it is there.
  for (let pulls = 0; pulls < 5; pulls++) await ada.waitForRequest(/\/sync\?/);
  // Who comes now missed being told, and is told at once.
  const ben = await world.visit("Ben");
  for (const page of [ada, ben]) assert.ok(!(await titles(page)).includes("Held up"));
  await nobody(null);
  await held;
  for (const page of [ada, ben]) await shown(page, "Held up");
  await world.assertConverged(ada, ben);
});
