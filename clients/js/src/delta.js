// A delta and how it changes what is held. Keys and values stay the server's text: keys are compared by
// it, and sync_digest is computed over it.

import { elements, members } from "./json.js";

/** @typedef {Record<string, any>} Value */
/** @typedef {Map<string, Map<string, Row>>} Rows relation -> key text -> row */
/** @typedef {{ op: "reset" | "delete" | "upsert", relation: string, key: string, value: string }} Change key and value as the server's text */
/** @typedef {{ cursor: string, upToDate: boolean, reset: string | null, changes: Change[] }} Delta `reset` is its reason */

/** A row: the server's text, and what it means. */
export class Row {
  /** @type {Value | undefined} */
  #value;

  /** @param {string} text */
  constructor(text) {
    /** @readonly */
    this.text = text;
  }

  /** The row as an object, frozen. */
  get value() {
    this.#value ??= /** @type {Value} */ (freeze(JSON.parse(this.text)));
    return this.#value;
  }
}

/**
 * @template T
 * @param {T} value
 * @returns {T} the same, frozen as deep as it goes
 */
export function freeze(value) {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    Object.values(value).forEach(freeze);
  }
  return value;
}

/**
 * The text that the server writes for a key of strings, booleans and integers. A string is taken for the text itself.
 *
 * @param {string | Record<string, string | number | bigint | boolean>} key columns in the key's order
 * @returns {string}
 */
export function keyText(key) {
  if (typeof key === "string") return key;
  const parts = Object.entries(key).map(([name, value]) => {
    return `${JSON.stringify(name)}: ${typeof value === "bigint" ? value : JSON.stringify(value)}`;
  });
  return `{${parts.join(", ")}}`;
}

/**
 * @param {string} text what `sync_pull(since, shape)::text` gave
 * @returns {Delta}
 */
export function parseDelta(text) {
  const document = JSON.parse(text);
  if (typeof document?.cursor !== "string" || !Array.isArray(document.changes)) {
    throw new TypeError("not a document of sync_pull");
  }
  const texts = elements(/** @type {string} */ (members(text).get("changes")));
  /** @type {Change[]} */
  const changes = [];
  let reset = null;
  document.changes.forEach((/** @type {any} */ { op, relation, value }, /** @type {number} */ i) => {
    if (op === "reset") {
      reset = value?.reason ?? "";
    } else if (op === "delete" || op === "upsert") {
      const raw = members(texts[i]);
      changes.push({ op, relation, key: raw.get("key") ?? "", value: raw.get("value") ?? "" });
    } else {
      throw new TypeError(`a change with op "${op}" is not known to this version of syncline`);
    }
  });
  return { cursor: document.cursor, upToDate: document.up_to_date !== false, reset, changes };
}

/**
 * @param {string} text `{"shape": document, …}`
 * @returns {Map<string, string>} each document as it stands there
 */
export function parseAnswer(text) {
  const answer = JSON.parse(text);
  if (typeof answer !== "object" || answer === null || Array.isArray(answer)) {
    throw new TypeError("the answer to a pull is not a JSON object");
  }
  return members(text);
}

/**
 * Applies a delta: a reset drops everything, then all keys that are named go, then upserts come. The cursor must be
 * stored together with the rows.
 *
 * @param {Rows} rows changed in place
 * @param {Delta} delta
 */
export function applyDelta(rows, delta) {
  if (delta.reset !== null) rows.clear();
  for (const { relation, key } of delta.changes) rows.get(relation)?.delete(key);
  for (const { op, relation, key, value } of delta.changes) {
    if (op !== "upsert") continue;
    let held = rows.get(relation);
    if (!held) rows.set(relation, (held = new Map()));
    held.set(key, new Row(value));
  }
}
