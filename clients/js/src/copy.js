// The copy: what is held, what is queued, and the storage of both.
//
// The storage is the truth and memory follows it. Its number ["version"] rises with everything that takes away or
// replaces something, and each such write checks it: of two writers one loses, reads the storage again, and decides anew.
//
//     ["client"] = text                    ["cursor", shape] = text or null
//     ["version"] = number                 ["row", shape, relation, key] = text
//     ["next"] = the next mutation's id    ["mutation", id] = {name, args, answered, xid}

import { sees } from "./cursor.js";
import { applyDelta, Row } from "./delta.js";
import { webCrypto } from "./digest.js";
import { View } from "./overlay.js";

/** @typedef {import("./delta.js").Delta} Delta */
/** @typedef {import("./delta.js").Rows} Rows */
/** @typedef {import("./storage.js").Op} Op */
/** @typedef {{ cursor: string | null, rows: Rows }} Held */
/** @typedef {{ id: number | null, name: string, args: any, answered: boolean, xid?: string }} Entry a queued mutation; without an id until it is stored */
/** @typedef {(view: { table: (shape: string, relation: string) => import("./overlay.js").Table }, args: any) => void} Mutator */

/**
 * @typedef {object} Change what may happen to a copy
 * @property {Map<string, Delta>} [deltas] by shape
 * @property {{ id: number, xid?: string }} [answer] the server applied this mutation
 * @property {{ id: number, reason: string }} [refusal] it never will
 * @property {string[]} [restart] shapes, new or held, that begin without a cursor
 * @property {string[]} [drop] shapes that go
 */

/**
 * @typedef {object} Message a change as it was written, for this tab's memory and the others'
 * @property {number} version
 * @property {[string, Delta][]} deltas
 * @property {{ id: number, answered: boolean, xid?: string }[]} answers
 * @property {number[]} settled mutations that leave the queue
 * @property {{ id: number, name: string, args: any, reason: string }[]} rejected those of them that were refused, whole: other tabs may not know them yet
 * @property {string[]} restart
 * @property {string[]} drop
 */

/** Resets after which transaction ids are not those that the server gave before. */
const OTHER_HISTORY = new Set(["epoch", "timeline"]);

/** @returns {Promise<string>} */
async function newClientId() {
  const bytes = (await webCrypto()).getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Shapes, queue and overlay of one storage. */
export class Copy {
  id = "";
  version = 0;
  /** @type {Map<string, Held>} */
  shapes = new Map();
  /** @type {Entry[]} in the order in which the server gets them */
  queue = [];
  /** @type {View} */
  view;
  #storage;
  #mutators;
  #relation;

  /**
   * @param {import("./storage.js").Storage} storage
   * @param {Record<string, Mutator>} mutators
   * @param {string} relation what syncline.client is called
   */
  constructor(storage, mutators, relation) {
    this.#storage = storage;
    this.#mutators = mutators;
    this.#relation = relation;
    this.view = new View(this);
  }

  /** Makes the storage a copy's if it is new, and reads it. */
  async open() {
    const id = await newClientId();
    await this.#storage.write(
      [["version"], undefined],
      [
        { put: ["client"], value: id },
        { put: ["version"], value: 1 },
        { put: ["next"], value: 1 },
      ],
    );
    await this.load();
  }

  /** Reads everything that is stored. */
  async load() {
    const stored = await this.#storage.list([]);
    // From here on without a pause: whoever reads meanwhile sees the old state or the new one.
    const unstored = this.queue.filter((entry) => entry.id === null);
    this.shapes = new Map();
    this.queue = [];
    const rows = [];
    for (const [[kind, ...key], value] of stored) {
      if (kind === "client") this.id = value;
      else if (kind === "version") this.version = value;
      else if (kind === "cursor") this.shapes.set(String(key[0]), { cursor: value, rows: new Map() });
      else if (kind === "mutation") this.queue.push({ id: Number(key[0]), ...value });
      else if (kind === "row") rows.push({ key: key.map(String), value });
    }
    for (const { key: [shape, relation, key], value } of rows) {
      const held = this.shapes.get(shape)?.rows;
      if (!held) continue;
      if (!held.has(relation)) held.set(relation, new Map());
      held.get(relation)?.set(key, new Row(value));
    }
    this.queue.sort((a, b) => Number(a.id) - Number(b.id));
    this.queue.push(...unstored);
    this.replay();
  }

  /** Takes up what other tabs have queued. */
  async loadQueue() {
    const known = new Set(this.queue.map((entry) => entry.id));
    for (const [key, value] of await this.#storage.list(["mutation"])) {
      const id = Number(key[1]);
      if (!known.has(id)) this.queue.push({ id, ...value });
    }
    this.#sortQueue();
    this.replay();
  }

  #sortQueue() {
    this.queue.sort((a, b) => (a.id ?? Infinity) - (b.id ?? Infinity) || 0);
  }

  /** What is held, without the queue: the source of the view. @param {string} shape @param {string} relation @param {string} key */
  get(shape, relation, key) {
    return this.shapes.get(shape)?.rows.get(relation)?.get(key)?.value;
  }

  /** @param {string} shape @param {string} relation @returns {Generator<[string, import("./delta.js").Value], void>} */
  *entries(shape, relation) {
    for (const [key, row] of this.shapes.get(shape)?.rows.get(relation) ?? []) yield [key, row.value];
  }

  /** Builds the overlay anew from the queue. */
  replay() {
    this.view = new View(this);
    for (const { name, args } of this.queue) {
      const mutator = Object.hasOwn(this.#mutators, name) ? this.#mutators[name] : undefined;
      try {
        // Queued by a version of the app that knew it: the server may still do.
        if (mutator) this.view.run(mutator, args);
      } catch {
        // The rows it built on are gone: it shows nothing, and the server decides.
      }
    }
  }

  /**
   * Shows a mutation at once.
   *
   * @param {string} name
   * @param {any} args
   * @returns {Entry} to be given to {@link store}
   */
  show(name, args) {
    if (!Object.hasOwn(this.#mutators, name)) throw new TypeError(`there is no mutator "${name}"`);
    /** @type {Entry} */
    const entry = { id: null, name, args: args === undefined ? null : JSON.parse(JSON.stringify(args)), answered: false };
    this.view.run(this.#mutators[name], entry.args);
    this.queue.push(entry);
    return entry;
  }

  /**
   * Queues what is shown. If that fails, it is shown no longer.
   *
   * @param {Entry} entry
   */
  async store(entry) {
    const { name, args, answered } = entry;
    try {
      for (;;) {
        const next = await this.#storage.get(["next"]);
        const ops = [
          { put: ["next"], value: next + 1 },
          { put: ["mutation", next], value: { name, args, answered } },
        ];
        if (await this.#storage.write([["next"], next], ops)) {
          entry.id = next;
          this.#sortQueue();
          return;
        }
      }
    } catch (error) {
      this.queue = this.queue.filter((other) => other !== entry);
      this.replay();
      throw error;
    }
  }

  /**
   * Writes a change. Nothing is changed in memory: that is {@link take}.
   *
   * @param {Change} change
   * @returns {Promise<Message | null>} null if somebody else wrote meanwhile: then memory was read anew
   */
  async write(change) {
    const message = this.#settle(change);
    /** @type {Op[]} */
    const ops = [{ put: ["version"], value: message.version }];
    for (const [shape, delta] of message.deltas) {
      if (delta.reset !== null) ops.push({ clear: ["row", shape] });
      for (const { op, relation, key, value } of delta.changes) {
        const path = ["row", shape, relation, key];
        ops.push(op === "upsert" ? { put: path, value } : { delete: path });
      }
      ops.push({ put: ["cursor", shape], value: delta.cursor });
    }
    for (const shape of message.restart) ops.push({ put: ["cursor", shape], value: null });
    for (const shape of message.drop) ops.push({ clear: ["row", shape] }, { delete: ["cursor", shape] });
    for (const { id, answered, xid } of message.answers) {
      const entry = this.queue.find((other) => other.id === id);
      if (entry) ops.push({ put: ["mutation", id], value: { name: entry.name, args: entry.args, answered, xid } });
    }
    for (const id of message.settled) ops.push({ delete: ["mutation", id] });
    if (await this.#storage.write([["version"], this.version], ops)) return message;
    await this.load();
    return null;
  }

  /**
   * What a change does to the queue.
   *
   * @param {Change} change
   * @returns {Message}
   */
  #settle({ deltas = new Map(), answer, refusal, restart = [], drop = [] }) {
    const cursors = new Map([...this.shapes].map(([shape, { cursor }]) => [shape, cursor]));
    for (const [shape, delta] of deltas) cursors.set(shape, delta.cursor);
    for (const shape of restart) cursors.set(shape, null);
    for (const shape of drop) cursors.delete(shape);
    const otherHistory = [...deltas.values()].some(({ reset }) => reset !== null && OTHER_HISTORY.has(reset));
    const row = this.#clientRow(deltas);
    /** @type {Message} */
    const message = { version: this.version + 1, deltas: [...deltas], answers: [], settled: [], rejected: [], restart, drop };
    for (const entry of this.queue) {
      if (entry.id === null) continue;
      const id = entry.id;
      let { answered, xid } = entry;
      if (otherHistory) ({ answered, xid } = { answered: false, xid: undefined });
      if (answer?.id === id) ({ answered, xid } = { answered: true, xid: answer.xid });
      const seen = xid;
      const reason = refusal?.id === id ? refusal.reason : row?.rejected === id ? row.reason : undefined;
      const isSeen = seen !== undefined && [...cursors.values()].every((cursor) => cursor !== null && sees(cursor, seen));
      if (reason !== undefined) message.rejected.push({ id, name: entry.name, args: entry.args, reason });
      if (reason !== undefined || (row && row.applied >= id) || isSeen) message.settled.push(id);
      else if (answered !== entry.answered || xid !== entry.xid) message.answers.push({ id, answered, xid });
    }
    return message;
  }

  /**
   * The server's record of this client, if one of the shapes has it.
   *
   * @param {Map<string, Delta>} deltas
   */
  #clientRow(deltas) {
    let found = null;
    for (const [shape, { rows }] of this.shapes) {
      if (deltas.get(shape)?.reset == null) {
        for (const { value } of rows.get(this.#relation)?.values() ?? []) if (value.client === this.id) found = value;
      }
    }
    for (const delta of deltas.values()) {
      for (const { op, relation, value } of delta.changes) {
        if (op !== "upsert" || relation !== this.#relation) continue;
        const row = JSON.parse(value);
        if (row.client === this.id) found = row;
      }
    }
    if (!found) return null;
    const rejected = found.rejected_id === null ? null : Number(found.rejected_id);
    return { applied: Number(found.mutation_id), rejected, reason: String(found.rejected_reason ?? "") };
  }

  /**
   * Brings memory to where the storage is.
   *
   * @param {Message} message of the version that follows this copy's
   * @returns {[string, string][]} the shapes that were reset, and why
   */
  take(message) {
    /** @type {[string, string][]} */
    const resets = [];
    for (const shape of message.drop) this.shapes.delete(shape);
    for (const shape of message.restart) this.shapes.set(shape, { cursor: null, rows: this.shapes.get(shape)?.rows ?? new Map() });
    for (const [shape, delta] of message.deltas) {
      const held = this.shapes.get(shape);
      if (!held) continue;
      applyDelta(held.rows, delta);
      held.cursor = delta.cursor;
      if (delta.reset !== null) resets.push([shape, delta.reset]);
    }
    for (const { id, ...answer } of message.answers) {
      Object.assign(this.queue.find((entry) => entry.id === id) ?? {}, answer);
    }
    const settled = new Set(message.settled);
    this.queue = this.queue.filter(({ id }) => id === null || !settled.has(id));
    this.version = message.version;
    this.replay();
    return resets;
  }
}
