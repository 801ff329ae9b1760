// Copies that follow a slot with the output plugin: at every moment the shapes' rows at what they have seen.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { StreamCopy, digest } from "../src/index.js";
import { database, until } from "./server.js";

const ROUNDS = Number(process.env.ROUNDS ?? 60);
const SHAPES = {
  open: { tables: { t: { where: "f = 1" } } },
  texts: { tables: { t: { columns: ["n", "long"] }, u: { columns: ["id"] } } },
};

let pool;
before(async () => {
  pool = await database("js_stream");
  await pool.query(`
    CREATE TABLE t (id int PRIMARY KEY, f int, n text, long text);
    CREATE TABLE u (id int PRIMARY KEY, t int);
    ALTER TABLE t ALTER long SET STORAGE EXTERNAL;
    SELECT sync_track('t', '{f}'), sync_track('u')`);
});
after(() => pool.end());

/** A slot, and a copy that follows it. */
class Reader {
  static async make(slot, options = {}) {
    const reader = new Reader();
    reader.slot = slot;
    await pool.query("SELECT pg_create_logical_replication_slot($1, 'syncline')", [slot]);
    reader.next = (await pool.query("SELECT pg_current_xact_id()::text AS xid")).rows[0].xid;
    const pull = async (shape) => (await pool.query("SELECT sync_pull(NULL, $1, NULL)::text AS document", [SHAPES[shape]])).rows[0].document;
    reader.copy = new StreamCopy({ shapes: Object.keys(SHAPES), next: reader.next, pull, ...options });
    return reader;
  }

  /** Takes all that was committed; the transactions. */
  async read() {
    const sql = "SELECT data FROM pg_logical_slot_get_changes($1, NULL, NULL, 'shapes', $2, 'not_before', $3)";
    const { rows } = await pool.query(sql, [this.slot, JSON.stringify(SHAPES), this.next]);
    const commits = rows.flatMap(({ data }) => this.copy.read(data));
    for (const commit of commits) this.copy.apply(commit);
    return commits;
  }

  async assertTrue() {
    await this.read();
    await until(() => Object.keys(SHAPES).every((shape) => this.copy.rows(shape)));
    for (const [shape, definition] of Object.entries(SHAPES)) {
      const { rows, hash } = (await pool.query("SELECT * FROM sync_digest($1)", [definition])).rows[0];
      assert.deepEqual(await digest(this.copy.rows(shape)), { rows: Number(rows), hash }, shape);
    }
  }

  async close() {
    this.copy.close();
    await pool.query("SELECT pg_drop_replication_slot($1)", [this.slot]);
  }
}

test("each change of a row is followed, with large values that the log leaves out", async () => {
  const reader = await Reader.make("each");
  await reader.assertTrue();
  const statements = [
    "INSERT INTO t SELECT g, g % 2, 'é \"' || g, repeat('x', 9000) FROM generate_series(1, 6) g",
    "UPDATE t SET n = 'y', f = 1 - f WHERE id < 3",
    "UPDATE t SET n = NULL",
    "DELETE FROM t WHERE id = 3; INSERT INTO u VALUES (1, 1)",
    "BEGIN; DELETE FROM t WHERE id = 4; INSERT INTO t VALUES (4, 1, 'again', 'short'); UPDATE u SET id = 2; COMMIT",
  ];
  for (const statement of statements) {
    await pool.query(statement);
    await reader.assertTrue();
  }
  const [commit] = (await pool.query("UPDATE t SET n = 'z' WHERE id = 5"), await reader.read());
  assert.deepEqual(commit.changes.get("texts").map(({ op, partial }) => [op, partial]), [["upsert", true]]);
  await reader.assertTrue();
  await reader.close();
});

test("a shape that cannot be followed is pulled, and others go on", async () => {
  const reader = await Reader.make("stale");
  await pool.query("INSERT INTO t VALUES (100, 1, 'a', 'b')");
  await reader.assertTrue();
  await pool.query("TRUNCATE u; INSERT INTO u VALUES (7, 7)");
  const [commit] = await reader.read();
  assert.deepEqual([...commit.stale], ["texts"]);
  assert.ok(reader.copy.rows("open") && !reader.copy.rows("texts"));
  await reader.assertTrue();
  await reader.close();
});

test("a pull that fails is tried again, and one that has not seen enough does not count", async () => {
  const [errors, failing] = [[], ["down", "early", "40001"]];
  const early = (await pool.query("SELECT sync_pull(NULL, $1, NULL)::text AS document", [SHAPES.open])).rows[0].document;
  let pulls = 0;
  const pull = async (shape) => {
    pulls++;
    const failure = shape === "open" ? failing.shift() : undefined;
    if (failure === "early") return early;
    if (failure) throw Object.assign(new Error(failure), { code: failure });
    return (await pool.query("SELECT sync_pull(NULL, $1, NULL)::text AS document", [SHAPES[shape]])).rows[0].document;
  };
  await pool.query("INSERT INTO t VALUES (101, 1, 'not in it', NULL)");
  const reader = await Reader.make("again", { pull, onError: (error) => errors.push(error.message) });
  await pool.query("INSERT INTO t VALUES (102, 1, 'meanwhile', NULL)");
  await reader.assertTrue();
  assert.deepEqual([errors, pulls], [["down"], 5]);
  await reader.close();
});

test("whatever writers do, copies are the truth whenever nobody writes", async () => {
  const reader = await Reader.make("law");
  let state = Number(process.env.SEED ?? 1) * 7919;
  const below = (n) => (state = (state * 48271 + 11) % 2147483647) % n;
  let stale = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const writers = Array.from({ length: 4 }, async () => {
      const id = below(30);
      const text = [
        `UPDATE t SET f = ${below(3)}, n = clock_timestamp()::text WHERE id = ${id}`,
        `INSERT INTO t VALUES (${id}, ${below(3)}, 'n', repeat('l', ${below(2) * 5000})) ON CONFLICT (id) DO UPDATE SET f = 1`,
        `UPDATE t SET id = id + 30 WHERE id = ${id} AND NOT EXISTS (SELECT FROM t WHERE id = ${id + 30})`,
        `DELETE FROM t WHERE id IN (${id}, ${id + 30})`,
        `BEGIN; DELETE FROM t WHERE id = ${id}; SAVEPOINT s; INSERT INTO t VALUES (${id}, 1); ROLLBACK TO s; COMMIT`,
        `BEGIN; INSERT INTO u VALUES (${round * 10 + below(10)}, 1) ON CONFLICT DO NOTHING; SELECT pg_sleep(0.0${below(9)}); ${below(3) ? "COMMIT" : "ROLLBACK"}`,
        below(10) ? "SELECT sync_heartbeat()" : "TRUNCATE u",
      ][below(7)];
      await pool.query(text).catch(async (error) => {
        assert.ok(["23505", "40P01"].includes(error.code), error);
      });
    });
    for (let i = below(3); i > 0; i--) stale += (await reader.read()).filter((commit) => commit.stale.size > 0).length;
    await Promise.all(writers);
    await reader.assertTrue();
  }
  assert.ok(stale > 0 || ROUNDS < 60, "some shapes became stale");
  await reader.close();
});
