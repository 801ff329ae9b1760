// What depends on the server's bytes: keys, digests, cursors.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client, applyDelta, digest, httpGet, httpPush, keyText, memory, parseDelta, sees } from "../src/index.js";
import { Refusal, database, serve } from "./server.js";

let pool;
before(async () => {
  pool = await database("js_server");
});
after(() => pool.end());

async function pull(since, shape) {
  return (await pool.query("SELECT sync_pull($1, $2)::text AS document", [since, JSON.stringify(shape)])).rows[0].document;
}

async function serverDigest(shape) {
  const { rows } = await pool.query("SELECT d.rows::int, d.hash FROM sync_digest($1) d", [JSON.stringify(shape)]);
  return rows[0];
}

test("digests agree on hostile content, through inserts, updates and deletes", async () => {
  await pool.query(`
    CREATE TABLE hostile (id bigint, name text, amount numeric, doc jsonb, raw json, bytes bytea, at timestamptz, list text[], ratio float8,
                          PRIMARY KEY (id, name));
    SELECT sync_track('hostile')`);
  const names = ['"', "\\", "a\\u0041", "\b\f\n\r\t", "\u0001\u001f\u007f", "é", "\u{1f600}", "\u2028\u2029", "{}", "],[", '","key": {}', "", " "];
  const documents = ['{"a": [1.00, {"b": "}"}]}', '"\\u00e9\\""', "[]", "{}", "1.10", "null", '{"": {"": []}}'];
  for (const [i, name] of names.entries()) {
    await pool.query("INSERT INTO hostile VALUES ($1, $2, $3, $4, $5, $6, now(), $7, $8)", [
      (2n ** 63n - 1n - BigInt(i)).toString(),
      name,
      ["1.00", "0.1000", "-0", "1e30", "NaN", "123456789012345678901234567890.50"][i % 6],
      documents[i % documents.length],
      `{"a" :  1.0,"a":2 , "s": "${["\\u0041", "\\/", "x"][i % 3]}"}`,
      Buffer.from([0, 255, i]),
      [name, name + name],
      ["NaN", "-Infinity", "1e-300", "0.1", "-0"][i % 5],
    ]);
  }
  for (const shape of [{ tables: { hostile: {} } }, { tables: { 'a "name"\n': { table: "hostile" } }, int8: "string" }]) {
    const rows = new Map();
    const first = parseDelta(await pull(null, shape));
    applyDelta(rows, first);
    assert.deepEqual(await digest(rows), await serverDigest(shape));
    assert.equal((await digest(rows)).rows, names.length);
    await pool.query("BEGIN; UPDATE hostile SET amount = amount + 1.000; DELETE FROM hostile WHERE name = '\"'; COMMIT");
    applyDelta(rows, parseDelta(await pull(first.cursor, shape)));
    assert.deepEqual(await digest(rows), await serverDigest(shape));
    assert.equal((await digest(rows)).rows, names.length - 1);
    await pool.query("INSERT INTO hostile VALUES (7, '\"', 1.00)");
  }
});

test("keyText gives the server's text for integers, strings and booleans", async () => {
  await pool.query(`
    CREATE TABLE keyed (b boolean, i bigint, longer_name text, a uuid, PRIMARY KEY (longer_name, i, b, a));
    SELECT sync_track('keyed')`);
  const uuid = "6b1e7a52-8d65-4d3c-9f7c-27c6fbd4a711";
  const keys = [
    { longer_name: 'q"\\/\b\u0001\u007f\u2028é\u{1f600}', i: 2n ** 63n - 1n, b: true, a: uuid },
    { longer_name: "", i: -5, b: false, a: uuid },
  ];
  for (const { longer_name, i, b, a } of keys) {
    await pool.query("INSERT INTO keyed VALUES ($1, $2, $3, $4)", [b, i.toString(), longer_name, a]);
  }
  const { changes } = parseDelta(await pull(null, { tables: { keyed: {} } }));
  assert.deepEqual(new Set(changes.filter(({ op }) => op === "upsert").map(({ key }) => key)), new Set(keys.map(keyText)));
});

test("integers beyond 2^53 are kept in the copy and read as strings where the shape says so", async () => {
  await pool.query("CREATE TABLE big (id bigint PRIMARY KEY); SELECT sync_track('big')");
  await pool.query("INSERT INTO big VALUES (9007199254740993), (9007199254740992)");
  const rows = new Map();
  applyDelta(rows, parseDelta(await pull(null, { tables: { big: {} } })));
  assert.equal(rows.get("big").size, 2);
  assert.equal(rows.get("big").get(keyText({ id: 9007199254740993n })).text, '{"id": 9007199254740993}');
  const strings = new Map();
  applyDelta(strings, parseDelta(await pull(null, { tables: { big: {} }, int8: "string" })));
  assert.deepEqual(strings.get("big").get(keyText({ id: "9007199254740993" })).value, { id: "9007199254740993" });
});

test("sees agrees with sync_sees, with transactions in progress", async () => {
  await pool.query("CREATE TABLE seen (id int PRIMARY KEY); SELECT sync_track('seen')");
  const open = [];
  for (let i = 0; i < 12; i++) {
    const db = await pool.connect();
    await db.query("BEGIN");
    await db.query("INSERT INTO seen VALUES ($1)", [i]);
    // Every other one ends before the cursor is made, so that gaps of all sizes lie between the open ones.
    if (i % 3 === 0) await db.query(`SAVEPOINT s; INSERT INTO seen VALUES (${i + 100}); SAVEPOINT t; INSERT INTO seen VALUES (${i + 200})`);
    if (i % 2 === 0) open.push(db);
    else db.release(void (await db.query(i % 4 === 1 ? "COMMIT" : "ROLLBACK")));
  }
  const { cursor } = parseDelta(await pull(null, { tables: { seen: {} } }));
  for (const db of open) db.release(void (await db.query("COMMIT")));
  const later = parseDelta(await pull(cursor, { tables: { seen: {} } })).cursor;
  const { rows } = await pool.query("SELECT pg_current_xact_id()::text AS now");
  const last = BigInt(rows[0].now) + 5n;
  let unseen = 0;
  for (const text of [cursor, later, cursor.split("~")[0]]) {
    const sql = "SELECT x::text AS xid, sync_sees($1, x::text::xid8) AS sees FROM generate_series(3, $2::bigint) x";
    for (const { xid, sees: expected } of (await pool.query(sql, [text, last.toString()])).rows) {
      assert.equal(sees(text, xid), expected, `${text} ${xid}`);
      if (text === cursor && !expected) unseen++;
    }
    assert.equal(sees(text, 2n ** 64n - 1n), false);
  }
  assert.ok(unseen > 6 && cursor.includes("_"), "some of the open transactions lie below xmax");
  assert.throws(() => sees("s2.1", 1), TypeError);
});

test("sees agrees with sync_sees where most transactions are in progress and a late one has ended", async () => {
  await pool.query("CREATE TABLE busy (id int PRIMARY KEY); SELECT sync_track('busy')");
  const open = [];
  for (let i = 0; i < 10; i++) {
    const db = await pool.connect();
    await db.query("BEGIN");
    await db.query("INSERT INTO busy VALUES ($1)", [i]);
    open.push(db);
  }
  for (const i of [8, 5]) {
    const [db] = open.splice(i, 1);
    db.release(void (await db.query("COMMIT")));
  }
  const { cursor } = parseDelta(await pull(null, { tables: { busy: {} } }));
  const now = "SELECT x::text AS xid, sync_sees($1, x::text::xid8) AS sees FROM generate_series(3, pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 5) x";
  const { rows } = await pool.query(now, [cursor]);
  for (const db of open) db.release(void (await db.query("COMMIT")));
  assert.ok(cursor.includes("-"), cursor);
  for (const { xid, sees: expected } of rows) assert.equal(sees(cursor, xid), expected, `${cursor} ${xid}`);
});

test("one shape is followed over a route that knows nothing but since", async () => {
  await pool.query("CREATE TABLE one (id int PRIMARY KEY, name text); SELECT sync_track('one')");
  const server = await serve(pool, { shapes: () => ({ one: { tables: { one: {} } } }) });
  const client = await Client.open({ shapes: ["one"], storage: memory(), pull: httpGet(`${server.url}/one`, "one") });
  await pool.query("INSERT INTO one VALUES (1, 'a'), (2, 'b')");
  await client.pull();
  await pool.query("BEGIN; UPDATE one SET name = 'c' WHERE id = 1; DELETE FROM one WHERE id = 2; COMMIT");
  await client.pull();
  assert.deepEqual(client.rows("one", "one"), [{ id: 1, name: "c" }]);
  await client.close();
  await server.close();
});

test("a mutation that comes twice at once is refused by both or applied by both", async () => {
  let attempts = 0;
  let release;
  const second = new Promise((resolve) => (release = resolve));
  const mutation = { client: "twice", id: 1, name: "once", args: null };
  const once = async (db) => {
    if (++attempts > 1) return;
    // The second one waits for this transaction's row, and goes on as soon as it is rolled back.
    push(mutation).then(release, release);
    const waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while ((await db.query("SELECT pg_stat_clear_snapshot()"), await db.query(waiting)).rowCount === 0);
    throw new Refusal("not now");
  };
  // The third transaction is the one that records the refusal: it begins when the second attempt has ended.
  let transactions = 0;
  const connect = async () => {
    if (++transactions === 3) await second;
    return pool.connect();
  };
  const slow = Object.create(pool, { connect: { value: connect } });
  const server = await serve(slow, { shapes: () => ({}), mutations: { once } });
  const push = httpPush(`${server.url}/mutate`);
  const first = await push(mutation).catch((error) => error);
  const { rows } = await pool.query("SELECT mutation_id, rejected_id FROM syncline.client WHERE client = 'twice'");
  assert.deepEqual(rows, [{ mutation_id: "1", rejected_id: null }]);
  assert.match(first.xid ?? String(first), /^[0-9]+$/);
  await server.close();
});
