import "fake-indexeddb/auto";
import assert from "node:assert/strict";
import { test } from "node:test";
import { indexedDb, memory } from "../src/index.js";
import { FakeServer } from "./fake.js";

for (const [kind, open] of Object.entries({ memory, indexedDb })) {
  test(`${kind}: keys are ordered parts, and a prefix finds what begins with it`, async () => {
    const storage = open("a");
    assert.equal(await storage.get(["x"]), undefined);
    const entries = [
      [["row", "s", "t", '{"id": 1}'], "1"],
      [["row", "s", "t\0", '{"id": 1}'], "2"],
      [["row", "s2", "t", '{"id": 1}'], "3"],
      [["rows"], "4"],
      [["mutation", 9], { args: [1] }],
      [["mutation", 10], { args: [] }],
      [["null"], null],
    ];
    assert.equal(await storage.write(null, entries.map(([put, value]) => ({ put, value }))), true);
    const found = async (prefix) => new Map((await storage.list(prefix)).map(([key, value]) => [JSON.stringify(key), value]));
    const expected = (...wanted) => new Map(wanted.map((i) => [JSON.stringify(entries[i][0]), entries[i][1]]));
    assert.deepEqual(await found([]), expected(0, 1, 2, 3, 4, 5, 6));
    assert.deepEqual(await found(["row"]), expected(0, 1, 2));
    assert.deepEqual(await found(["row", "s"]), expected(0, 1));
    assert.deepEqual(await found(["mutation", 9]), expected(4));
    await storage.write(null, [{ clear: ["row", "s"] }, { delete: ["mutation", 9] }, { put: ["row", "s", "t", "k"], value: "5" }]);
    assert.deepEqual((await storage.list(["row"])).map(([, value]) => value).sort(), ["3", "5"]);
    assert.equal(await storage.get(["mutation", 9]), undefined);
    await storage.close();
  });

  test(`${kind}: a write whose check fails does nothing`, async () => {
    const storage = open("b");
    assert.equal(await storage.write([["v"], undefined], [{ put: ["v"], value: 1 }]), true);
    assert.equal(await storage.write([["v"], undefined], [{ put: ["v"], value: 2 }]), false);
    assert.equal(await storage.write([["v"], 1], [{ put: ["v"], value: 2 }, { put: ["w"], value: 1 }]), true);
    assert.equal(await storage.write([["v"], 1], [{ delete: ["v"] }, { clear: ["w"] }]), false);
    assert.deepEqual([await storage.get(["v"]), await storage.get(["w"])], [2, 1]);
    const writes = Array.from({ length: 10 }, (_, i) => storage.write([["v"], 2], [{ put: ["v"], value: 10 + i }]));
    assert.equal((await Promise.all(writes)).filter(Boolean).length, 1);
    await storage.close();
  });
}

test("copy, queue and name survive in IndexedDB", async () => {
  const server = new FakeServer();
  const client = await server.open({ storage: indexedDb("kept") });
  server.commit(1, { id: 1, name: "a" });
  server.commit(2, { id: 2, name: "b" });
  await client.pull();
  await client.mutate("set", { id: 3, name: "c" });
  await client.close();
  const again = await server.open({ storage: indexedDb("kept") });
  assert.equal(again.id, client.id);
  assert.deepEqual(again.cursors, client.cursors);
  assert.deepEqual(again.rows("s", "t"), client.rows("s", "t"));
  await again.push();
  await again.pull();
  assert.deepEqual(again.pending, []);
  await again.close();
});

test("a failed IndexedDB write is an error, and nothing of it is stored", async () => {
  const storage = indexedDb("failing");
  const ops = [{ put: ["a"], value: 1 }, { put: ["b"], value: () => {} }];
  for (const check of [null, [["v"], undefined]]) {
    await assert.rejects(storage.write(check, ops), { name: "DataCloneError" });
    assert.equal(await storage.get(["a"]), undefined);
  }
  await storage.close();
});
