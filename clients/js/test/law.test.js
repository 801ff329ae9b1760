// The law, through everything: whatever writers, networks and users do, each copy equals its shapes in the snapshot of
// its last pull, and every mutation is applied once or refused.

import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Client, events, httpPull, httpPush, indexedDb, memory } from "../src/index.js";
import { Refusal, database, serve, until } from "./server.js";

const SEED = Number(process.env.SEED ?? 1);
const ROUNDS = Number(process.env.ROUNDS ?? 60);

let pool;
before(async () => {
  pool = await database("js_law");
  await pool.query(`
    CREATE TABLE account (id int PRIMARY KEY, project int NOT NULL, balance numeric NOT NULL, note text);
    CREATE TABLE booking (n bigserial PRIMARY KEY, token text NOT NULL);
    INSERT INTO account SELECT i, i % 3, 10, 'note ' || i FROM generate_series(1, 40) i;
    SELECT sync_track('account', '{project,balance}'), sync_track('booking')`);
});
after(() => pool.end());

const shapes = (client) => ({
  mine: { tables: { account: { where: "project = $1" }, booking: {} }, params: [1], int8: "string" },
  rich: { tables: { account: { columns: ["balance", "note"], where: "balance > 12.50" } } },
  me: { tables: { "syncline.client": { where: "client = $1" } }, params: [client] },
});

const mutations = {
  async book(db, { token, id, amount }) {
    const { rows } = await db.query("UPDATE account SET balance = balance + $2 WHERE id = $1 RETURNING balance", [id, amount]);
    if (rows.length === 0) throw new Refusal("there is no such account");
    if (Number(rows[0].balance) < 0) throw new Refusal("the balance does not suffice");
    await db.query("INSERT INTO booking (token) VALUES ($1)", [token]);
  },
};

const mutators = {
  book(view, { token, id, amount }) {
    const accounts = view.table("mine", "account");
    const account = accounts.get({ id });
    if (account) accounts.put({ id }, { ...account, balance: account.balance + amount });
    view.table("mine", "booking").put({ n: `new ${token}` }, { token });
  },
};

function generator(seed) {
  let state = seed * 7919 + 17;
  const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
  return { chance: (p) => random() < p, below: (n) => Math.floor(random() * n), pick: (list) => list[Math.floor(random() * list.length)] };
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** One session that changes accounts, in transactions of all lengths, some of which fail. */
async function write(seed) {
  const { chance, below, pick } = generator(seed);
  const db = await pool.connect();
  for (let round = 0; round < ROUNDS; round++) {
    try {
      await db.query(chance(0.2) ? "BEGIN ISOLATION LEVEL REPEATABLE READ" : "BEGIN");
      for (let i = below(4); i >= 0; i--) {
        const id = 1 + below(60);
        if (chance(0.2)) await db.query("SAVEPOINT s");
        const sql = pick([
          "UPDATE account SET project = (project + 1) % 3 WHERE id = $1",
          "UPDATE account SET balance = balance * 1.10 WHERE id = $1",
          "UPDATE account SET note = 'changed ' || clock_timestamp() WHERE id = $1",
          "UPDATE account SET id = 61 - id WHERE id = $1 AND NOT EXISTS (SELECT FROM account WHERE id = 61 - $1)",
          "DELETE FROM account WHERE id = $1",
          "INSERT INTO account VALUES ($1, $1 % 3, 12.50, 'new ' || clock_timestamp()) ON CONFLICT (id) DO NOTHING",
        ]);
        await db.query(sql, [id]);
        if (chance(0.1)) await db.query("SAVEPOINT t; ROLLBACK TO t");
        if (chance(0.3)) await sleep(below(30));
      }
      await db.query(chance(0.15) ? "ROLLBACK" : "COMMIT");
      if (chance(0.02)) await db.query("SELECT sync_prune('1 second')");
      if (chance(0.01)) await db.query("TRUNCATE account; INSERT INTO account SELECT i, i % 3, 10, 'note ' || i FROM generate_series(1, 40) i");
    } catch (error) {
      // Serialization failures, deadlocks, two rows with one key: the next round is another transaction.
      assert.match(error.code, /^(40|23505)/);
      await db.query("ROLLBACK");
    }
  }
  db.release();
}

/** A user with one storage and several tabs, on a network of his own. */
class User {
  made = [];
  refused = new Map();
  resets = [];
  sent = new Map();
  down = 0;
  lost = 0;
  offline = false;
  tabs = [];

  constructor(name, storage, how, tabCount) {
    Object.assign(this, { name, storage, how, tabCount });
    this.random = generator(SEED * 100 + name.charCodeAt(0));
  }

  async open() {
    this.server ??= await serve(pool, { shapes, mutations, fault: (path) => this.fault(path) });
    const { url } = this.server;
    const push = httpPush(`${url}/mutate`);
    for (let i = 0; i < this.tabCount; i++) {
      const storage = this.storage();
      const tab = await Client.open({
        shapes: ["mine", "rich", "me"],
        storage,
        mutators,
        pull: httpPull(`${url}/sync`),
        push: (mutation, how) => {
          this.sent.set(mutation.id, (this.sent.get(mutation.id) ?? 0) + 1);
          return push(mutation, how);
        },
        onRejected: ({ args }, reason) => this.refused.set(args.token, reason),
        onReset: (shape, reason) => this.resets.push(reason),
      });
      tab.start({ ...this.how(url), retry: { first: 5, longest: 50 } });
      this.tabs.push(tab);
    }
  }

  async close() {
    await Promise.all(this.tabs.map((tab) => tab.close()));
    this.tabs = [];
  }

  fault(path) {
    if (this.healed || path === "/events") return undefined;
    if (this.offline || this.random.chance(0.1)) return this.down++, "down";
    if (this.random.chance(0.15)) return this.lost++, "lost";
    return undefined;
  }

  async act() {
    const { chance, below, pick } = this.random;
    for (let round = 0; round < ROUNDS; round++) {
      await sleep(below(40));
      if (chance(0.1)) this.offline = !this.offline;
      if (chance(0.05)) {
        await this.close();
        await this.open();
      }
      if (chance(0.6)) {
        const token = `${this.name} ${round}`;
        this.made.push(token);
        await pick(this.tabs).mutate("book", { token, id: 1 + below(60), amount: pick([1, 2.5, -3, -20, 0]) });
      }
      if (chance(0.2) && !this.offline) {
        const checked = await pick(this.tabs).check().catch(() => ({}));
        assert.deepEqual(Object.keys(checked).filter((shape) => !checked[shape]), [], "digests differ");
      }
      if (chance(0.1)) this.server.announce();
    }
  }
}

test("copies equal their shapes and mutations are applied once, whatever happens", async (t) => {
  const kept = memory();
  const users = [
    new User("a", () => ({ ...kept, name: null }), () => ({ wait: 1 }), 1),
    new User("b", () => indexedDb("law"), (url) => ({ events: events(`${url}/events`), every: 50 }), 2),
  ];
  t.after(async () => {
    for (const user of users) {
      await user.close();
      await user.server.close();
    }
  });
  for (const user of users) await user.open();
  await Promise.all([write(SEED), write(SEED + 1000), write(SEED + 2000), ...users.map((user) => user.act())]);
  for (const user of users) user.healed = true;
  for (const user of users) {
    await until(() => user.tabs.every((tab) => tab.pending.length === 0));
    await Promise.all(user.tabs.map((tab) => tab.stop()));
  }
  // From here on nobody writes.
  for (const user of users) {
    for (const tab of user.tabs) {
      assert.deepEqual(await tab.check(), { mine: true, rich: true, me: true });
      await checkAgainstServer(tab);
    }
  }
  const { rows } = await pool.query("SELECT token FROM booking ORDER BY token");
  const expected = users.flatMap(({ made, refused }) => made.filter((token) => !refused.has(token))).sort();
  assert.deepEqual(rows.map(({ token }) => token).sort(), expected);
  for (const { name, made, refused, sent, down, lost, resets } of users) {
    const again = [...sent.values()].filter((count) => count > 1).length;
    console.log(`${name}: ${made.length} mutations, ${refused.size} refused, ${again} sent again; ${down} requests not made, ${lost} answers lost; ${resets.length} resets`);
    assert.ok(!resets.includes("digest"));
    assert.ok(refused.size > 0 && again > 0 && down > 0 && lost > 0, "the run was no test");
  }
});

/** What an app reads, compared with the server's rows: no digest in between. */
async function checkAgainstServer(tab) {
  for (const [shape, definition] of Object.entries(shapes(tab.id))) {
    const { rows } = await pool.query("SELECT relation, value::text FROM sync_preview($1) WHERE op = 'upsert'", [JSON.stringify(definition)]);
    for (const relation of Object.keys(definition.tables)) {
      const expected = rows.filter((row) => row.relation === relation).map(({ value }) => JSON.stringify(JSON.parse(value)));
      assert.deepEqual(tab.rows(shape, relation).map((row) => JSON.stringify(row)).sort(), expected.sort());
    }
  }
}
