import assert from "node:assert/strict";
import { test } from "node:test";
import { elements, members } from "../src/json.js";

test("values keep their text", () => {
  const text = '{ "a" : 1.00 ,"b":[1, {"c": "}"}],"d":"\\"\\\\", "e": -1e5,"f":null , "g" : {} ,"h":[]}';
  assert.deepEqual([...members(text)], [
    ["a", "1.00"],
    ["b", '[1, {"c": "}"}]'],
    ["d", '"\\"\\\\"'],
    ["e", "-1e5"],
    ["f", "null"],
    ["g", "{}"],
    ["h", "[]"],
  ]);
  assert.deepEqual(elements(' [ 1.00 , "]," ,[[]],{"x": [1]}, true\n] '), ["1.00", '"],"', "[[]]", '{"x": [1]}', "true"]);
  assert.deepEqual([...members(" { } ")], []);
  assert.deepEqual(elements("[ ]"), []);
});

test("names are unescaped, and the last of two wins, as in JSON.parse", () => {
  const text = '{"\\u0061": 1, "a": 2, "__proto__": 3, "\\"": 4}';
  assert.deepEqual([...members(text)], [["a", "2"], ["__proto__", "3"], ['"', "4"]]);
});

/** A random JSON text with random white space. */
function randomJson(random, depth) {
  const space = () => ["", "", " ", "\n", "\t "][Math.floor(random() * 5)];
  const strings = ['""', '"a"', '"\\\\"', '"\\""', '"{[,:"', '"\\u00e9\u{1f600}"', '"]}"', '"\\\\\\""'];
  const pick = (list) => list[Math.floor(random() * list.length)];
  const many = (one) => Array.from({ length: Math.floor(random() * 4) }, one).join(`${space()},${space()}`);
  const kind = depth > 4 ? 0 : Math.floor(random() * 4);
  if (kind === 1) return `[${space()}${many(() => randomJson(random, depth + 1))}${space()}]`;
  if (kind === 2) return `{${space()}${many(() => `${pick(strings)}${space()}:${space()}${randomJson(random, depth + 1)}`)}${space()}}`;
  return pick([...strings, "0", "-1.00", "1e+400", "12345678901234567890", "true", "false", "null"]);
}

test("every slice of a random text parses to what JSON.parse finds there", () => {
  let state = 42;
  const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
  for (let i = 0; i < 5000; i++) {
    const text = randomJson(random, 0);
    const value = JSON.parse(text);
    if (Array.isArray(value)) {
      assert.deepEqual(elements(text).map((part) => JSON.parse(part)), value);
    } else if (value && typeof value === "object") {
      const found = Object.fromEntries([...members(text)].map(([name, part]) => [name, JSON.parse(part)]));
      assert.deepEqual(found, value);
    }
  }
});
