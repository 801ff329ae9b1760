// What cursors and positions have seen.

import assert from "node:assert/strict";
import { test } from "node:test";
import { sees } from "../src/index.js";
import { Seen } from "../src/cursor.js";

const position = (visible) => `s1.7.5.1.4242.9.${visible}.00000000`;
const range = (n) => Array.from({ length: n }, (_, i) => BigInt(i));
/** The transactions below 60 that are seen. */
const seen = (some) => range(60).filter((xid) => some.sees(xid)).join(" ");

test("transactions below and above the base are told apart in both forms", () => {
  const cases = {
    5: [0, 1, 2, 3, 4],
    "5_1_3": [0, 1, 3],
    // An old open transaction, and others behind it, of which few have ended: the shorter form.
    "10_3-2_5": [0, 1, 2, 3, 4, 5, 6, 8, 9, 12, 17],
    "3-4": [0, 1, 2, 7],
  };
  for (const [visible, expected] of Object.entries(cases)) {
    for (const text of [position(visible), `${position(visible)}~1.2.00000000`]) {
      assert.deepEqual(range(30).filter((xid) => sees(text, xid)).map(Number), expected, text);
    }
  }
  for (const text of ["s1.7.5.1.4242.9.5-.00000000", "s1.7.5.1.4242.9._5.00000000", "s1.7.5.1.4242.9.5_1-3-4.00000000", "s2.1", ""]) {
    assert.throws(() => sees(text, 1), TypeError, text);
  }
});

test("unions see what either sees, and containing is seeing all that the other sees", () => {
  let state = 7;
  const below = (n) => (state = (state * 48271) % 2147483647) % n;
  const some = () => {
    const base = BigInt(10 + below(20));
    const pick = (from) => range(8).map((i) => from + i).filter(() => below(3) === 0);
    return new Seen(base, pick(base - 8n), pick(base));
  };
  let contained = 0;
  for (let round = 0; round < 5000; round++) {
    const [a, b] = [some(), some()];
    const union = a.union(b);
    assert.equal(seen(union), range(60).filter((xid) => a.sees(xid) || b.sees(xid)).join(" "));
    assert.ok(union.contains(a) && union.contains(b) && a.contains(a));
    const contains = range(60).every((xid) => a.sees(xid) || !b.sees(xid));
    assert.equal(a.contains(b), contains);
    if (contains) contained++;
  }
  assert.ok(contained > 20, `${contained} of 5000 pairs`);
});
