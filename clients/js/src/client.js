// The client: a copy, the network around it, and the tabs beside it.

import { Copy } from "./copy.js";
import { Seen } from "./cursor.js";
import { keyText, parseAnswer, parseDelta } from "./delta.js";
import { digest } from "./digest.js";
import { Follower } from "./follow.js";

/** @typedef {import("./copy.js").Change} Change */
/** @typedef {import("./copy.js").Message} Message */
/** @typedef {import("./http.js").Mutation} Mutation */
/** @typedef {import("./http.js").PullRequest} PullRequest */

/**
 * @typedef {object} Options
 * @property {string[]} shapes names; the server knows which shape each one is
 * @property {import("./storage.js").Storage} storage
 * @property {(request: PullRequest) => Promise<string>} pull
 * @property {(mutation: Mutation, how: { signal?: AbortSignal }) => Promise<{ xid?: string }>} [push]
 * @property {Record<string, import("./copy.js").Mutator>} [mutators]
 * @property {(mutation: Mutation, reason: string) => void} [onRejected]
 * @property {(shape: string, reason: string) => void} [onReset]
 * @property {(error: unknown) => void} [onError]
 * @property {string} [relation] what the table syncline.client is called in the shapes
 * @property {number} [timeout] milliseconds after which a request counts as lost, beside the time that the server was asked to wait
 * @property {Pick<LockManager, "request">} [locks]
 */

/** @param {unknown} error @returns {error is { rejected: true, reason?: unknown }} */
function isRejection(error) {
  return typeof error === "object" && error !== null && "rejected" in error && error.rejected === true;
}

/** A copy of shapes that follows the server. Made by {@link Client.open}. */
export class Client {
  /** @type {Options} */
  #options;
  #copy;
  #follower;
  /** @type {Set<() => void>} */
  #subscribers = new Set();
  /** @type {BroadcastChannel | undefined} */
  #channel;
  /** The last of the steps on copy and storage, which never overlap. @type {Promise<unknown>} */
  #step = Promise.resolve();
  /** @type {Promise<unknown>} */
  #pushing = Promise.resolve();

  /**
   * @param {Options} options
   * @param {Copy} copy
   */
  constructor(options, copy) {
    this.#options = options;
    this.#copy = copy;
    this.#follower = new Follower({
      pull: (how) => this.#pullOnce(how),
      sendNext: (signal) => this.#sendNext(signal),
      hasSeen: (told) => Object.values(this.cursors).every((cursor) => cursor !== null && Seen.of(cursor).contains(told)),
      catchUp: () => this.#inStep(() => this.#reload()),
      report: (error) => this.#options.onError?.(error),
      locks: options.locks ?? globalThis.navigator?.locks,
      lock: options.storage.name === null ? null : `syncline:${options.storage.name}`,
    });
  }

  /**
   * Reads the storage: what was held and queued is there again.
   *
   * @param {Options} options
   * @returns {Promise<Client>}
   */
  static async open(options) {
    const copy = new Copy(options.storage, options.mutators ?? {}, options.relation ?? "syncline.client");
    const client = new Client(options, copy);
    client.#listen();
    await client.#inStep(() => copy.open());
    for (const shape of options.shapes) await client.follow(shape);
    return client;
  }

  /** Names this copy to the server. */
  get id() {
    return this.#copy.id;
  }

  /** @returns {Record<string, string | null>} by shape */
  get cursors() {
    return Object.fromEntries([...this.#copy.shapes].map(([shape, { cursor }]) => [shape, cursor]));
  }

  /** The mutations that are queued or not seen yet. @returns {Mutation[]} */
  get pending() {
    return this.#copy.queue.flatMap(({ id, name, args }) => (id === null ? [] : [{ client: this.id, id, name, args }]));
  }

  /**
   * The rows as they will be once the queue has been applied, in no order.
   *
   * @param {string} shape
   * @param {string} relation
   * @returns {import("./delta.js").Value[]} frozen
   */
  rows(shape, relation) {
    return [...this.#copy.view.entries(shape, relation)].map(([, row]) => row);
  }

  /**
   * @param {string} shape
   * @param {string} relation
   * @param {import("./overlay.js").Key} key
   * @returns {import("./delta.js").Value | undefined}
   */
  get(shape, relation, key) {
    return this.#copy.view.get(shape, relation, keyText(key));
  }

  /**
   * @param {() => void} fn called after each delta and each mutation
   * @returns {() => void} ends it
   */
  subscribe(fn) {
    this.#subscribers.add(fn);
    return () => void this.#subscribers.delete(fn);
  }

  /**
   * Shows a mutation at once and queues it.
   *
   * @param {string} name
   * @param {any} [args] JSON
   * @returns {Promise<Mutation>} once it is stored
   */
  async mutate(name, args) {
    const entry = this.#copy.show(name, args);
    this.#notify();
    try {
      await this.#inStep(() => this.#copy.store(entry));
    } catch (error) {
      this.#notify();
      throw error;
    }
    // Only now is it pending: whoever marks pending rows has to look again.
    this.#notify();
    this.#channel?.postMessage({ queue: true });
    this.#follower.send();
    return { client: this.id, id: Number(entry.id), name, args: entry.args };
  }

  /** One pull of all shapes, whole. */
  async pull() {
    while (!(await this.#pullOnce({})).upToDate);
  }

  /**
   * Sends what is queued, in order, one at a time.
   *
   * @returns {Promise<number>} how many were answered
   */
  async push() {
    let count = 0;
    while (await this.#sendNext()) count++;
    return count;
  }

  /**
   * Follows the server until {@link stop}. Of several tabs one does.
   *
   * @param {import("./follow.js").How} how
   */
  start(how) {
    this.#follower.start(how);
  }

  /** Ends following; resolves when nothing is under way any more. */
  async stop() {
    await this.#follower.stop();
    await this.#pushing;
    await this.#step;
  }

  /** Stops and lets go of the storage. */
  async close() {
    await this.stop();
    this.#channel?.close();
    await this.#options.storage.close();
  }

  /**
   * Pulls with digests and compares them with what is held. What differs starts over with the next pull.
   *
   * @returns {Promise<Record<string, boolean>>} by shape
   */
  async check() {
    for (;;) {
      const result = await this.#pullOnce({ digest: true });
      if (result.checked) return result.checked;
    }
  }

  /**
   * Adds a shape to what the storage holds.
   *
   * @param {string} shape
   */
  async follow(shape) {
    await this.#until(() => this.#copy.shapes.has(shape), { restart: [shape] });
    this.#follower.news();
  }

  /**
   * Drops a shape with its rows, for all tabs.
   *
   * @param {string} shape
   */
  async unfollow(shape) {
    await this.#until(() => !this.#copy.shapes.has(shape), { drop: [shape] });
  }

  /**
   * One request, applied if nothing has moved the cursors meanwhile.
   *
   * @param {{ wait?: number, digest?: boolean, signal?: AbortSignal }} how
   * @returns {Promise<{ upToDate: boolean, changed: boolean, checked?: Record<string, boolean> }>}
   */
  async #pullOnce({ wait, digest: withDigest, signal }) {
    const cursors = this.cursors;
    if (Object.keys(cursors).length === 0) return { upToDate: true, changed: false, checked: {} };
    const text = await this.#request(signal, wait, (limited) => {
      return this.#options.pull({ cursors, client: this.id, wait, digest: withDigest, signal: limited });
    });
    /** @type {Map<string, import("./delta.js").Delta>} */
    const deltas = new Map();
    /** @type {Map<string, { rows: number | string, hash: string }>} */
    const digests = new Map();
    for (const [shape, part] of parseAnswer(text)) {
      if (!Object.hasOwn(cursors, shape)) continue;
      const parts = withDigest ? parseAnswer(part) : undefined;
      deltas.set(shape, parseDelta(parts?.get("document") ?? part));
      const sent = parts?.get("digest");
      if (sent !== undefined && deltas.get(shape)?.upToDate) digests.set(shape, JSON.parse(sent));
    }
    return this.#inStep(async () => {
      const moved = [...deltas.keys()].some((shape) => this.#copy.shapes.get(shape)?.cursor !== cursors[shape]);
      if (moved || !(await this.#change({ deltas }))) return { upToDate: false, changed: false };
      const all = [...deltas.values()];
      const changed = all.some(({ reset, changes }) => reset !== null || changes.length > 0);
      return { upToDate: all.every((delta) => delta.upToDate), changed, checked: withDigest ? await this.#compare(digests) : undefined };
    });
  }

  /** @param {Map<string, { rows: number | string, hash: string }>} digests of the snapshot that the copy is at */
  async #compare(digests) {
    /** @type {Record<string, boolean>} */
    const checked = {};
    for (const [shape, { rows, hash }] of digests) {
      const own = await digest(this.#copy.shapes.get(shape)?.rows ?? new Map());
      checked[shape] = own.rows === Number(rows) && own.hash === hash;
    }
    const wrong = Object.keys(checked).filter((shape) => !checked[shape]);
    if (wrong.length > 0) {
      await this.#change({ restart: wrong });
      for (const shape of wrong) this.#options.onReset?.(shape, "digest");
      this.#follower.news();
    }
    return checked;
  }

  /**
   * Sends the first mutation that has no answer, after the one that is being sent.
   *
   * @param {AbortSignal} [signal]
   * @returns {Promise<boolean>} false if there is none
   */
  #sendNext(signal) {
    const sent = this.#pushing.then(async () => {
      const entry = this.#copy.queue.find(({ id, answered }) => id !== null && !answered);
      if (!entry || !this.#options.push || signal?.aborted) return false;
      await this.#send({ client: this.id, id: Number(entry.id), name: entry.name, args: entry.args }, signal);
      return true;
    });
    this.#pushing = sent.catch(() => {});
    return sent;
  }

  /**
   * Sends one mutation and records the answer.
   *
   * @param {Mutation} mutation
   * @param {AbortSignal} [signal]
   */
  async #send(mutation, signal) {
    const push = /** @type {NonNullable<Options["push"]>} */ (this.#options.push);
    const { id } = mutation;
    /** @type {Change} */
    let change;
    try {
      const answer = await this.#request(signal, 0, (limited) => push(mutation, { signal: limited }));
      change = { answer: { id, xid: answer?.xid === undefined ? undefined : String(answer.xid) } };
    } catch (error) {
      if (!isRejection(error)) throw error;
      change = { refusal: { id, reason: String(error.reason ?? "") } };
    }
    // Somebody else may have settled it meanwhile.
    await this.#until(() => !this.#copy.queue.some((entry) => entry.id === id), change);
    this.#follower.news();
  }

  /**
   * @template T
   * @param {AbortSignal | undefined} signal
   * @param {number | undefined} wait seconds that the server may take beside
   * @param {(signal: AbortSignal) => Promise<T>} run
   * @returns {Promise<T>} fails when it takes too long, even if `run` does not heed its signal
   */
  async #request(signal, wait, run) {
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort);
    const limit = (this.#options.timeout ?? 30_000) + (wait ?? 0) * 1000;
    const timer = setTimeout(() => controller.abort(new DOMException("no answer in time", "TimeoutError")), limit);
    try {
      return await new Promise((resolve, reject) => {
        const fail = () => reject(controller.signal.reason);
        if (controller.signal.aborted) fail();
        controller.signal.addEventListener("abort", fail);
        run(controller.signal).then(resolve, reject);
      });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * @template T
   * @param {() => Promise<T>} run
   * @returns {Promise<T>} after all steps before it
   */
  #inStep(run) {
    const step = this.#step.then(run);
    this.#step = step.catch(() => {});
    return step;
  }

  /**
   * Makes a change unless it is not needed (any more), however often others write in between.
   *
   * @param {() => boolean} done
   * @param {Change} change
   */
  #until(done, change) {
    return this.#inStep(async () => {
      while (!done() && !(await this.#change(change)));
    });
  }

  /** @param {Change} change @returns {Promise<boolean>} false if others wrote meanwhile */
  async #change(change) {
    const message = await this.#copy.write(change);
    if (message) {
      this.#channel?.postMessage(message);
      this.#take(message);
    } else {
      this.#notify();
    }
    return message !== null;
  }

  /** @param {Message} message */
  #take(message) {
    for (const [shape, reason] of this.#copy.take(message)) this.#options.onReset?.(shape, reason);
    for (const { reason, ...mutation } of message.rejected) {
      this.#options.onRejected?.({ client: this.id, ...mutation }, reason);
    }
    this.#notify();
  }

  async #reload() {
    await this.#copy.load();
    this.#notify();
  }

  /** Hears what other tabs of the same storage do. */
  #listen() {
    const { name } = this.#options.storage;
    if (name === null || typeof BroadcastChannel === "undefined") return;
    this.#channel = new BroadcastChannel(`syncline:${name}`);
    this.#channel.onmessage = ({ data }) => {
      this.#inStep(async () => {
        if (data.queue) {
          await this.#copy.loadQueue();
          this.#notify();
        } else if (data.version === this.#copy.version + 1) {
          this.#take(data);
        } else if (data.version > this.#copy.version) {
          await this.#reload();
        }
        this.#follower.send();
      }).catch((error) => this.#options.onError?.(error));
    };
  }

  #notify() {
    for (const fn of this.#subscribers) fn();
  }
}
