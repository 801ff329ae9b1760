// What the routes answer when one mutation comes twice at a time, and when what is asked for is somebody else's.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import pg from "pg";
import { asUser, write } from "../writes.js";
import { GROCERIES, READING, World } from "./support.js";

test("a mutation that is applied while the same one is being refused is answered as applied", async (t) => {
  const world = await World.make(t);
  const pool = new pg.Pool({ database: world.database });
  t.after(() => pool.end());
  const args = { id: randomUUID(), list_id: GROCERIES, title: "Oat milk", made: "2026-01-01" };
  const mutation = { client: "one", id: 1, name: "addTodo", args };
  let transactions = 0;
  const connect = async () => {
    if (++transactions === 2) {
      // Between the roll-back and the record of the refusal.
      await world.query("DELETE FROM todo WHERE title = 'Oat milk'");
      assert.ok((await write(pool, "Ada", mutation)).xid);
    }
    return pool.connect();
  };
  assert.deepEqual(Object.keys(await write({ connect }, "Ada", mutation)), ["xid"]);
  assert.equal(transactions, 2);
  assert.deepEqual(await world.query("SELECT title FROM todo WHERE id = $1", [args.id]), [{ title: "Oat milk" }]);
});

test("a mutation that was refused is refused again, for the same reason", async (t) => {
  const world = await World.make(t);
  const pool = new pg.Pool({ database: world.database });
  t.after(() => pool.end());
  const mutation = { client: "one", id: 1, name: "addTodo", args: { id: randomUUID(), list_id: GROCERIES, title: "Oat milk", made: "2026-01-01" } };
  const refused = { reason: "“Oat milk” is already on this list." };
  assert.deepEqual(await write(pool, "Ada", mutation), refused);
  await world.query("DELETE FROM todo WHERE title = 'Oat milk'");
  assert.deepEqual(await write(pool, "Ada", mutation), refused);
  assert.ok((await write(pool, "Ada", { ...mutation, id: 2 })).xid);
});

test("what is not his a user can neither read nor write, whatever he asks for", async (t) => {
  const world = await World.make(t);
  const pool = new pg.Pool({ database: world.database });
  t.after(() => pool.end());
  const reading = "SELECT to_jsonb(l), to_jsonb(m), to_jsonb(t) FROM list l JOIN member m ON m.list_id = l.id JOIN todo t ON t.list_id = l.id WHERE l.id = $1 ORDER BY t.made";
  const before = await world.query(reading, [READING]);
  const [{ id }] = await world.query("SELECT id FROM todo WHERE list_id = $1 LIMIT 1", [READING]);
  const forged = {
    addMember: { list_id: READING, name: "Ben" },
    removeMember: { list_id: READING, name: "Ada" },
    addTodo: { id: randomUUID(), list_id: READING, title: "Mine", made: "2026-01-01" },
    addList: { id: READING, title: "Mine" },
    renameTodo: { id, title: "Mine" },
    checkTodo: { id, done: true },
    deleteTodo: { id },
  };
  for (const [name, args] of Object.entries(forged)) {
    const answer = await write(pool, "Ben", { name, args });
    assert.equal("reason" in answer, !["removeMember", "deleteTodo"].includes(name), name);
  }
  assert.deepEqual(await world.query(reading, [READING]), before);

  const asked = JSON.stringify({ mine: null, [`list:${READING}`]: null });
  const response = await fetch(`${world.address}/sync?client=one`, { method: "POST", headers: { Cookie: "who=Ben" }, body: asked });
  const text = await response.text();
  assert.deepEqual([Object.keys(JSON.parse(text)), text.includes(READING), text.includes(GROCERIES)], [["mine"], false, true]);
  // Nor does a shape that names the list: what the policies do not allow is in none.
  const shape = JSON.stringify({ tables: { list: { where: "id = $1" }, member: { where: "list_id = $1" }, todo: { where: "list_id = $1" } }, params: [READING] });
  const count = "SELECT count(*)::int FROM sync_changes(NULL, $1) WHERE op = 'upsert'";
  const rows = (who) => asUser(pool, who, async (db) => (await db.query(count, [shape])).rows[0].count);
  assert.deepEqual([await rows("Ben"), await rows("Ada")], [0, 4]);
});
