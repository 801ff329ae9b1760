import assert from "node:assert/strict";
import { test } from "node:test";
import { applyDelta, digest, keyText, parseDelta } from "../src/index.js";

const document = (changes, reset = false) => JSON.stringify({ cursor: "c", up_to_date: true, reset, changes });
const upsert = (id, value = {}) => ({ op: "upsert", relation: "t", key: { id }, value: { id, ...value } });

function held(rows) {
  return [...(rows.get("t")?.values() ?? [])].map((row) => row.value);
}

test("upserts replace, deletes remove, and what is not named stays", () => {
  const rows = new Map();
  applyDelta(rows, parseDelta(document([upsert(1), upsert(2), upsert(3)])));
  applyDelta(rows, parseDelta(document([{ op: "delete", relation: "t", key: { id: 1 } }, upsert(2, { a: 1 })])));
  assert.deepEqual(held(rows), [{ id: 3 }, { id: 2, a: 1 }]);
});

test("a reset drops everything before it", () => {
  const rows = new Map();
  applyDelta(rows, parseDelta(document([upsert(1), { ...upsert(1), relation: "u" }])));
  const delta = parseDelta(document([{ op: "reset", value: { reason: "schema" } }, upsert(2)], true));
  applyDelta(rows, delta);
  assert.equal(delta.reset, "schema");
  assert.deepEqual([...rows.keys()], ["t"]);
  assert.deepEqual(held(rows), [{ id: 2 }]);
});

test("keys are told apart by their text", () => {
  const rows = new Map();
  applyDelta(rows, parseDelta('{"cursor": "c", "changes": [{"op": "upsert", "relation": "t", "key": {"n": 1.0}, "value": {"n": 1.0}}]}'));
  applyDelta(rows, parseDelta('{"cursor": "c", "changes": [{"op": "delete", "relation": "t", "key": {"n": 1.00}}]}'));
  assert.equal(rows.get("t").size, 1);
  applyDelta(rows, parseDelta('{"cursor": "c", "changes": [{"op": "delete", "relation": "t", "key": {"n": 1.0}}]}'));
  assert.equal(rows.get("t").size, 0);
});

test("rows are frozen as deep as they go", () => {
  const rows = new Map();
  applyDelta(rows, parseDelta(document([upsert(1, { list: [{ a: 1 }] })])));
  const [row] = held(rows);
  assert.throws(() => (row.id = 2), TypeError);
  assert.throws(() => (row.list[0].a = 2), TypeError);
});

test("what is no document, or of a later version, is refused", () => {
  for (const text of ["", "nonsense", "null", "[]", "{}", '{"cursor": "c"}']) assert.throws(() => parseDelta(text));
  assert.throws(() => parseDelta(document([{ op: "merge" }])), /op "merge" is not known/);
});

test("a key's text is written as the server writes it", () => {
  assert.equal(keyText({ id: 1, name: 'a "b"\n\u0001é' }), '{"id": 1, "name": "a \\"b\\"\\n\\u0001é"}');
  assert.equal(keyText({ id: 2n ** 62n, yes: true }), '{"id": 4611686018427387904, "yes": true}');
  assert.equal(keyText('{"n": 1.00}'), '{"n": 1.00}');
});

test("the digest does not depend on the order of rows", async () => {
  const [one, two] = [new Map(), new Map()];
  applyDelta(one, parseDelta(document([upsert(1), upsert(2)])));
  applyDelta(two, parseDelta(document([upsert(2), upsert(1)])));
  assert.deepEqual(await digest(one), await digest(two));
  assert.deepEqual(await digest(new Map()), { rows: 0, hash: "0000000000000000" });
});
