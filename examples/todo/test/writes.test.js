// What the write route answers when one mutation comes twice at a time.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import pg from "pg";
import { write } from "../writes.js";
import { GROCERIES, World } from "./support.js";

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
