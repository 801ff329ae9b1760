// Copies that follow a slot with the output plugin, by the rules of docs/stream.md. They are kept in memory: a follower begins
// with a new slot, and a shape that cannot be followed is pulled anew from nothing.

import { Seen, visible } from "./cursor.js";
import { applyDelta, parseDelta } from "./delta.js";
import { members } from "./json.js";
import { Backoff } from "./timing.js";

/** @typedef {import("./delta.js").Change & { partial: boolean }} Change `partial`: the columns that it lacks are unchanged */
/** @typedef {{ xid: bigint, visible: string, changes: Map<string, Change[]>, stale: Set<string> }} Commit by shape; `visible`: what the slot has sent by then */
/** @typedef {{ rows: import("./delta.js").Rows, seen?: Seen, joining?: Seen, waiting: Commit[] }} Held `joining`: what a pull must have seen */

/**
 * A row with the columns that the log did not have: those of the row that is held.
 *
 * @param {import("./delta.js").Rows} rows
 * @param {Change} change
 */
function completed(rows, change) {
  const held = rows.get(change.relation)?.get(change.key);
  if (!change.partial || !held) return change;
  const sent = members(change.value);
  const columns = [...members(held.text)].map(([name, old]) => `${JSON.stringify(name)}: ${sent.get(name) ?? old}`);
  return { ...change, value: `{${columns.join(", ")}}` };
}

/** Copies of shapes. */
export class StreamCopy {
  /** What the slot has sent so far, as text: whoever pulls must have seen it to know all that was told of. */
  visible;
  /** @type {Map<string, Held>} */
  #shapes;
  #pull;
  #onError;
  /** What has come of the transaction that is being sent. @type {Pick<Commit, "changes" | "stale">} */
  #open = { changes: new Map(), stale: new Set() };
  #closed = false;

  /**
   * @param {object} options
   * @param {string[]} options.shapes their names in the slot's option `shapes`
   * @param {string} options.next `pg_current_xact_id()`, read after the slot was ready; the slot's option `not_before`
   * @param {(shape: string) => Promise<string>} options.pull the document of `sync_pull(NULL, shape, NULL)`
   * @param {(error: any) => void} [options.onError] a pull failed; it is tried again
   */
  constructor({ shapes, next, pull, onError }) {
    this.visible = next;
    this.#pull = pull;
    this.#onError = onError;
    this.#shapes = new Map(shapes.map((shape) => [shape, { rows: new Map(), waiting: [] }]));
    for (const [shape, held] of this.#shapes) this.#join(shape, held);
  }

  /**
   * @param {string} shape
   * @returns {import("./delta.js").Rows | undefined} undefined while it is being pulled
   */
  rows(shape) {
    const held = this.#shapes.get(shape);
    return held?.joining ? undefined : held?.rows;
  }

  /**
   * Takes apart what the plugin wrote at once.
   *
   * @param {string} text
   * @returns {Commit[]} the transactions that end in it, to be given to {@link apply} in turn
   */
  read(text) {
    const commits = [];
    for (const line of text.split("\n")) {
      const { op, shape, relation, cursor, value, unchanged } = JSON.parse(line);
      if (op === "delete" || op === "upsert") {
        const raw = members(line);
        const change = { op, relation, key: raw.get("key") ?? "", value: raw.get("value") ?? "", partial: unchanged !== undefined };
        const changes = this.#open.changes.get(shape);
        if (changes) changes.push(change);
        else this.#open.changes.set(shape, [change]);
      } else if (op === "stale") {
        this.#open.stale.add(value.shape);
      } else if (op === "commit") {
        commits.push({ ...this.#open, xid: BigInt(value.xid), visible: visible(cursor) });
        this.#open = { changes: new Map(), stale: new Set() };
      } else {
        throw new TypeError(`an object with op "${op}" is not known to this version of syncline`);
      }
    }
    return commits;
  }

  /** @param {Commit} commit */
  apply(commit) {
    this.visible = commit.visible;
    for (const [shape, held] of this.#shapes) {
      if (commit.stale.has(shape) && !held.seen?.sees(commit.xid)) this.#join(shape, held);
      else if (held.joining) held.waiting.push(commit);
      else this.#advance(shape, held, commit);
    }
  }

  /** Nothing is pulled any more. */
  close() {
    this.#closed = true;
  }

  /** @param {string} shape @param {Held} held @param {Commit} commit */
  #advance(shape, held, { xid, changes, visible: text }) {
    const sent = /** @type {Seen} */ (Seen.parse(text));
    if (!held.seen?.sees(xid)) {
      const whole = (changes.get(shape) ?? []).map((change) => completed(held.rows, change));
      applyDelta(held.rows, { cursor: "", upToDate: true, reset: null, changes: whole });
    }
    held.seen = held.seen?.union(sent) ?? sent;
  }

  /** @param {string} shape @param {Held} held */
  #join(shape, held) {
    const isPulling = held.joining !== undefined;
    held.joining = Seen.parse(this.visible);
    held.waiting = [];
    if (!isPulling) this.#pulls(shape, held);
  }

  /** @param {string} shape @param {Held} held */
  async #pulls(shape, held) {
    const backoff = new Backoff({ first: 10, longest: 1000 });
    while (held.joining && !this.#closed) {
      const before = held.joining;
      try {
        const delta = parseDelta(await this.#pull(shape));
        const seen = Seen.of(delta.cursor);
        if (before === held.joining && seen.contains(before)) {
          applyDelta(held.rows, delta);
          held.seen = seen;
          held.joining = undefined;
          for (const commit of held.waiting.splice(0)) this.#advance(shape, held, commit);
          return;
        }
      } catch (error) {
        // A snapshot that does not see an alteration yet: the server asks to try again.
        if (/** @type {any} */ (error)?.code !== "40001") this.#onError?.(error);
      }
      await new Promise((resolve) => setTimeout(resolve, backoff.next()));
    }
  }
}
