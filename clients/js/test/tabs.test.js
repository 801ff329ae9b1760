// Several clients over one storage, as the tabs of a browser are.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Rejected, memory } from "../src/index.js";
import { FakeServer, fakeLocks } from "./fake.js";
import { until } from "./server.js";

const names = (client) => client.rows("s", "t").map(({ id, name }) => `${id}:${name}`).sort();
const closeAll = (clients) => Promise.all(clients.map((client) => client.close()));

test("one tab does the network, the others hear of rows and mutations, and one of them takes over", async () => {
  const server = new FakeServer();
  const [storage, locks] = [memory("lead"), fakeLocks()];
  const by = [];
  const open = (tab) => {
    const noting = (fn) => (...args) => (by.push(tab), fn(...args));
    return server.open({ storage, locks, pull: noting(server.pull), push: noting(server.push) });
  };
  const [one, two] = [await open("one"), await open("two")];
  assert.equal(one.id, two.id);
  one.start({ every: 5 });
  two.start({ every: 5 });
  server.commit(1, { id: 1, name: "a" });
  await until(() => names(two).length === 1);
  await two.mutate("set", { id: 2, name: "b" });
  await until(() => two.pending.length === 0 && one.pending.length === 0);
  assert.deepEqual(names(one), ["1:a", "2:b"]);
  assert.deepEqual(names(two), ["1:a", "2:b"]);
  assert.deepEqual(new Set(by), new Set(["one"]));
  await one.close();
  await two.mutate("set", { id: 3, name: "c" });
  await until(() => two.pending.length === 0);
  assert.ok(by.includes("two"));
  await two.close();
});

test("mutations of several tabs get ids without a gap", async () => {
  const server = new FakeServer();
  const storage = memory("ids");
  const tabs = await Promise.all([1, 2, 3].map(() => server.open({ storage })));
  const made = await Promise.all(tabs.flatMap((tab, i) => [1, 2, 3].map((n) => tab.mutate("set", { id: i * 3 + n, name: "x" }))));
  assert.deepEqual(made.map(({ id }) => id).sort(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  await until(() => tabs.every((tab) => tab.pending.length === 9 && names(tab).length === 9));
  await tabs[0].push();
  assert.deepEqual(server.sent.map(({ id }) => id), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
  await tabs[1].pull();
  await until(() => tabs.every((tab) => tab.pending.length === 0));
  await closeAll(tabs);
});

test("without locks all tabs do the network, and none falls back behind another", async () => {
  const server = new FakeServer();
  const storage = memory("free");
  const tabs = await Promise.all([1, 2, 3].map(() => server.open({ storage, locks: undefined })));
  for (const tab of tabs) tab.start({ every: 1 });
  for (let i = 1; i <= 30; i++) {
    await tabs[i % 3].mutate("set", { id: i % 7, name: String(i) });
    if (i % 5 === 0) server.commit(i % 7, null);
  }
  await until(() => tabs.every((tab) => tab.pending.length === 0));
  await Promise.all(tabs.map((tab) => tab.stop()));
  await tabs[0].pull();
  const expected = [...server.rows.values()].filter(([row]) => row).map(([row]) => `${row.id}:${row.name}`).sort();
  for (const tab of tabs) {
    await until(() => JSON.stringify(tab.cursors) === JSON.stringify(tabs[0].cursors));
    assert.deepEqual(names(tab), expected);
  }
  assert.equal(server.applied.size, 30);
  await closeAll(tabs);
});

test("every tab is told of a refusal", async () => {
  const server = new FakeServer();
  const storage = memory("refusals");
  const told = [];
  const open = (tab) => {
    const push = () => Promise.reject(new Rejected("no"));
    return server.open({ storage, push, onRejected: ({ id }, reason) => told.push(`${tab} ${id} ${reason}`) });
  };
  const tabs = [await open("one"), await open("two")];
  await tabs[0].mutate("set", { id: 1, name: "x" });
  await tabs[1].push();
  await tabs[0].push();
  await until(() => told.length === 2);
  assert.deepEqual(told.sort(), ["one 1 no", "two 1 no"]);
  assert.deepEqual(tabs.map(names), [[], []]);
  await closeAll(tabs);
});

test("a tab that missed a message reads the storage", async () => {
  const server = new FakeServer();
  const storage = memory("missed");
  const deaf = await server.open({ storage: { ...storage, name: null } });
  const [one, two] = [await server.open({ storage }), await server.open({ storage })];
  await deaf.mutate("set", { id: 1, name: "silent" });
  server.commit(2, { id: 2, name: "b" });
  await deaf.pull();
  await deaf.push();
  await deaf.pull();
  assert.deepEqual(names(two), []);
  server.commit(3, { id: 3, name: "c" });
  await one.pull();
  await until(() => names(two).length === 3 && names(one).length === 3);
  assert.deepEqual(two.pending, []);
  await closeAll([deaf, one, two]);
});

test("while the storage is read again, rows stay, and what is being queued stays", async () => {
  const server = new FakeServer();
  const storage = memory("reading");
  let onList;
  const list = async (prefix) => {
    const found = await storage.list(prefix);
    onList?.();
    return found;
  };
  const deaf = await server.open({ storage: { ...storage, name: null } });
  const tab = await server.open({ storage: { ...storage, name: null, list } });
  server.commit(1, { id: 1, name: "a" });
  await tab.pull();
  await deaf.pull();
  server.commit(2, { id: 2, name: "b" });
  await deaf.pull();
  const shown = [];
  let mutation;
  onList = () => {
    shown.push(names(tab));
    mutation = tab.mutate("set", { id: 3, name: "c" });
    tab.subscribe(() => shown.push(names(tab)));
  };
  const early = tab.mutate("set", { id: 4, name: "d" });
  await tab.pull();
  await Promise.all([early, mutation]);
  assert.deepEqual(shown[0], ["1:a", "4:d"]);
  assert.ok(shown.length > 2 && shown.slice(1).every((rows) => rows.includes("3:c") && rows.includes("4:d")));
  assert.deepEqual(names(tab), ["1:a", "2:b", "3:c", "4:d"]);
  await closeAll([deaf, tab]);
});
