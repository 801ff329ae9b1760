import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, Rejected, memory } from "../src/index.js";
import { FakeServer, cursor } from "./fake.js";
import { until } from "./server.js";

const names = (client) => client.rows("s", "t").map(({ id, name }) => `${id}:${name}`).sort();

test("a mutation shows at once, and again after the app was closed", async () => {
  const server = new FakeServer();
  const storage = memory();
  const client = await server.open({ storage });
  server.commit(1, { id: 1, name: "old" });
  await client.pull();
  let calls = 0;
  client.subscribe(() => calls++);
  const stored = client.mutate("set", { id: 1, name: "new" });
  assert.deepEqual(names(client), ["1:new"]);
  assert.equal(calls, 1);
  let pending;
  client.subscribe(() => (pending = client.pending));
  const mutation = await stored;
  assert.deepEqual(pending, [mutation], "a subscriber is told when it is stored");
  await client.close();
  const again = await server.open({ storage });
  assert.equal(again.id, client.id);
  assert.deepEqual(names(again), ["1:new"]);
  assert.deepEqual(again.pending, [mutation]);
});

test("mutations are sent in order, one at a time, and leave when the cursor sees them, not before", async () => {
  const server = new FakeServer();
  let underWay = 0;
  const client = await server.open({
    async push(mutation) {
      assert.equal(++underWay, 1);
      const answer = await server.push(mutation);
      underWay--;
      return answer;
    },
  });
  for (let id = 1; id <= 3; id++) await client.mutate("set", { id, name: "x" });
  await Promise.all([client.push(), client.push()]);
  assert.deepEqual(server.sent.map(({ id }) => id), [1, 2, 3]);
  assert.deepEqual(client.pending.map(({ id }) => id), [1, 2, 3]);
  server.unseen = [102];
  await client.pull();
  assert.deepEqual(client.pending.map(({ id }) => id), [2]);
  assert.deepEqual(names(client), ["1:x", "2:x", "3:x"]);
  server.unseen = [];
  await client.pull();
  assert.deepEqual(client.pending, []);
  assert.deepEqual(names(client), ["1:x", "2:x", "3:x"]);
});

test("an answer that comes after the delta settles the mutation", async () => {
  const server = new FakeServer();
  const client = await server.open({
    async push(mutation) {
      const answer = await server.push(mutation);
      await client.pull();
      assert.equal(client.pending.length, 1);
      return answer;
    },
  });
  await client.mutate("set", { id: 1, name: "x" });
  await client.push();
  assert.deepEqual(client.pending, []);
});

test("every shape must have seen a mutation", async () => {
  const server = new FakeServer();
  const storage = memory();
  const client = await server.open({ storage, shapes: ["s", "other"], pull: async () => `{"s": ${server.document(null)}}` });
  await client.mutate("set", { id: 1, name: "x" });
  await client.push();
  await client.pull();
  assert.equal(client.pending.length, 1);
  await client.close();
  const whole = await server.open({ storage });
  await whole.pull();
  assert.deepEqual(whole.pending, []);
});

test("a mutation whose answer was lost is sent again under the same id", async () => {
  const server = new FakeServer();
  let lost = true;
  const client = await server.open({
    async push(mutation) {
      const answer = await server.push(mutation);
      if (lost) throw new Error("connection reset");
      return answer;
    },
  });
  await client.mutate("set", { id: 1, name: "x" });
  await assert.rejects(client.push(), /connection reset/);
  lost = false;
  assert.equal(await client.push(), 1);
  assert.deepEqual(server.sent.map(({ id }) => id), [1, 1]);
});

test("a refused mutation is given to the app and shows no longer; the next one is sent", async () => {
  const server = new FakeServer();
  const refused = [];
  const client = await server.open({
    onRejected: (mutation, reason) => refused.push([mutation.id, mutation.args.name, reason]),
    push: (mutation) => (mutation.id === 1 ? Promise.reject(new Rejected("no")) : server.push(mutation)),
  });
  await client.mutate("set", { id: 1, name: "x" });
  await client.mutate("set", { id: 2, name: "y" });
  assert.equal(await client.push(), 2);
  assert.deepEqual(refused, [[1, "x", "no"]]);
  assert.deepEqual(names(client), ["2:y"]);
});

test("the server's record of the client settles and refuses what was sent without an answer", async () => {
  const refused = [];
  const client = await Client.open({
    shapes: ["me"],
    storage: memory(),
    pull: async ({ client: id }) => {
      const row = { client: id, mutation_id: "3", rejected_id: 2, rejected_reason: "no" };
      const change = { op: "upsert", relation: "syncline.client", key: { client: id }, value: row };
      return JSON.stringify({ me: { cursor: cursor(5), changes: [{ ...change, value: { ...row, client: "another", mutation_id: 9 } }, change] } });
    },
    mutators: { add() {} },
    onRejected: (mutation, reason) => refused.push([mutation.id, reason]),
  });
  for (let i = 0; i < 4; i++) await client.mutate("add");
  await client.pull();
  assert.deepEqual(refused, [[2, "no"]]);
  assert.deepEqual(client.pending.map(({ id }) => id), [4]);
});

test("a reset keeps what was not sent", async () => {
  const server = new FakeServer();
  const resets = [];
  const storage = memory();
  const client = await server.open({ storage, onReset: (shape, reason) => resets.push(`${shape} ${reason}`) });
  server.commit(1, { id: 1, name: "a" });
  await client.pull();
  await client.mutate("set", { id: 2, name: "b" });
  server.rows.clear();
  server.reset = "schema";
  await client.pull();
  assert.deepEqual(resets, ["s start", "s schema"]);
  for (const copy of [client, await server.open({ storage })]) {
    assert.deepEqual(names(copy), ["2:b"]);
    assert.equal(copy.pending.length, 1);
  }
});

test("a reset to another history makes answered mutations unanswered: their transaction ids mean nothing there", async () => {
  const server = new FakeServer();
  const client = await server.open();
  await client.mutate("set", { id: 1, name: "a" });
  server.unseen = [101];
  await client.push();
  // Restored to a time before the mutation: the same id is another transaction's now.
  server.rows.clear();
  server.applied.clear();
  server.unseen = [];
  server.reset = "epoch";
  await client.pull();
  assert.deepEqual(names(client), ["1:a"]);
  await client.push();
  await client.pull();
  assert.deepEqual(client.pending, []);
  assert.deepEqual(names(client), ["1:a"]);
  assert.equal(server.sent.length, 2);
});

test("a mutator that throws queues nothing and shows nothing of what it did", async () => {
  const server = new FakeServer();
  const client = await server.open({
    mutators: {
      half(view) {
        view.table("s", "t").put({ id: 1 }, { name: "x" });
        throw new Error("half way");
      },
    },
  });
  await assert.rejects(client.mutate("half"), /half way/);
  await assert.rejects(client.mutate("unknown"), TypeError);
  await assert.rejects(client.mutate("toString"), TypeError);
  assert.deepEqual(names(client), []);
  assert.deepEqual(client.pending, []);
});

test("a mutator whose rows are gone shows nothing, and its mutation is sent all the same", async () => {
  const server = new FakeServer();
  const client = await server.open({
    mutators: {
      rename(view, { id, name }) {
        const table = view.table("s", "t");
        const row = table.get({ id });
        if (!row) throw new Error("it is gone");
        table.put({ id }, { ...row, name });
      },
    },
  });
  server.commit(1, { id: 1, name: "a" });
  await client.pull();
  await client.mutate("rename", { id: 1, name: "b" });
  assert.deepEqual(names(client), ["1:b"]);
  server.commit(1, null);
  await client.pull();
  assert.deepEqual(names(client), []);
  assert.equal(await client.push(), 1);
});

test("views read what earlier mutations did; puts and deletes lie over what is held", async () => {
  const server = new FakeServer();
  const client = await server.open({
    mutators: {
      add: (view, { id }) => view.table("s", "t").put({ id }, { name: `after ${view.table("s", "t").rows().length}` }),
      drop: (view, { id }) => view.table("s", "t").delete({ id }),
    },
  });
  server.commit(1, { id: 1, name: "a" });
  await client.pull();
  await client.mutate("add", { id: 2 });
  await client.mutate("drop", { id: 1 });
  await client.mutate("add", { id: 3 });
  assert.deepEqual(names(client), ["2:after 1", "3:after 1"]);
  assert.equal(client.get("s", "t", { id: 1 }), undefined);
  assert.equal(client.get("s", "t", '{"id": 3}').name, "after 1");
});

test("what is changed by one delta is stored with its cursor or not at all", async () => {
  const server = new FakeServer();
  const storage = memory();
  let full = false;
  const failing = { ...storage, write: (check, ops) => (full ? Promise.reject(new Error("no space")) : storage.write(check, ops)) };
  const client = await server.open({ storage: failing });
  server.commit(1, { id: 1, name: "a" });
  await client.pull();
  const before = client.cursors;
  server.commit(1, { id: 1, name: "b" });
  full = true;
  await assert.rejects(client.pull(), /no space/);
  assert.deepEqual(names(client), ["1:a"]);
  assert.deepEqual(client.cursors, before);
  await assert.rejects(client.mutate("set", { id: 2, name: "x" }), /no space/);
  assert.deepEqual(names(client), ["1:a"]);
  full = false;
  await client.pull();
  assert.deepEqual(names(await server.open({ storage })), ["1:b"]);
});

test("a document for a cursor that is no longer held is thrown away", async () => {
  const server = new FakeServer();
  let release;
  const held = new Promise((resolve) => (release = resolve));
  let pulls = 0;
  const client = await server.open({
    async pull(request) {
      const answer = await server.pull(request);
      if (++pulls === 1) await held;
      return answer;
    },
  });
  server.commit(1, { id: 1, name: "a" });
  const slow = client.pull();
  await until(() => pulls === 1);
  server.commit(1, null);
  await client.pull();
  release();
  await slow;
  assert.equal(pulls, 3);
  assert.deepEqual(names(client), []);
});

test("a copy that differs from the server's digest starts over", async () => {
  const server = new FakeServer();
  const resets = [];
  const storage = memory();
  const pull = async ({ cursors, digest }) => {
    const document = server.document(cursors.s);
    return digest ? `{"s": {"document": ${document}, "digest": {"rows": 1, "hash": "0123456789abcdef"}}}` : `{"s": ${document}}`;
  };
  const client = await server.open({ storage, pull, onReset: (shape, reason) => resets.push(reason) });
  server.commit(1, { id: 1, name: "a" });
  await client.pull();
  assert.deepEqual(await client.check(), { s: false });
  assert.deepEqual(client.cursors, { s: null });
  assert.deepEqual(names(client), ["1:a"]);
  await client.pull();
  assert.deepEqual(resets, ["start", "digest", "start"]);
});

test("a shape can be dropped with its rows, and comes back from nothing", async () => {
  const server = new FakeServer();
  const storage = memory();
  const client = await server.open({ storage });
  server.commit(1, { id: 1, name: "a" });
  await client.pull();
  await client.unfollow("s");
  assert.deepEqual(client.cursors, {});
  assert.deepEqual(names(client), []);
  assert.deepEqual(await storage.list(["row"]), []);
  await client.follow("s");
  await client.pull();
  assert.deepEqual(names(client), ["1:a"]);
});
