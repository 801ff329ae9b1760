// Following the server: when to pull, when to send, and what to do when that fails.

import { Seen } from "./cursor.js";
import { Backoff, Bell } from "./timing.js";

/**
 * @typedef {object} How one of `wait`, `events` and `every`
 * @property {number} [wait] seconds that the server waits for a change before it answers
 * @property {(signal: AbortSignal) => AsyncIterable<unknown>} [events] each of which means that there may be news; of one that is the `visible` of a position no pull is up to date that has not seen all of it
 * @property {number} [every] milliseconds between pulls
 * @property {{ first?: number, longest?: number }} [retry] milliseconds of the first pause after a failure, and of the longest
 */

/**
 * @typedef {object} Work what the client does for its follower
 * @property {(how: { wait?: number, signal: AbortSignal }) => Promise<{ upToDate: boolean, changed: boolean }>} pull
 * @property {(signal: AbortSignal) => Promise<boolean>} sendNext false if nothing is queued
 * @property {(told: Seen) => boolean} hasSeen whether the copy contains what was told of
 * @property {() => Promise<void>} catchUp reads what other tabs have stored
 * @property {(error: unknown) => void} report
 * @property {Pick<LockManager, "request"> | undefined} locks
 * @property {string | null} lock
 */

/** Pulls and sends until it is stopped. */
export class Follower {
  #work;
  #news = new Bell();
  #queued = new Bell();
  #online = new Bell();
  /** What events have told of, and no pull has seen yet. @type {Seen | undefined} */
  #told;
  /** @type {AbortController | undefined} */
  #controller;
  /** @type {Promise<void>} */
  #running = Promise.resolve();
  /** The request that the server may keep waiting. @type {AbortController | undefined} */
  #waiting;

  /** @param {Work} work */
  constructor(work) {
    this.#work = work;
  }

  /** @param {How} how */
  start(how) {
    if (this.#controller) throw new Error("this client follows already");
    this.#controller = new AbortController();
    this.#running = this.#lead(how, this.#controller.signal);
  }

  /** Resolves when nothing is under way any more. */
  async stop() {
    this.#controller?.abort(new DOMException("the client was stopped", "AbortError"));
    for (const bell of [this.#news, this.#queued, this.#online]) bell.ring();
    await this.#running;
    this.#controller = undefined;
  }

  /** There may be something to pull. */
  news() {
    this.#news.ring();
    this.#waiting?.abort();
  }

  /** @param {Seen | undefined} told what there is to be seen, if that is known */
  #tell(told) {
    if (told) this.#told = this.#told?.union(told) ?? told;
    this.news();
  }

  /** There may be something to send. */
  send() {
    this.#queued.ring();
  }

  /**
   * Where there are locks, waits until no other tab follows.
   *
   * @param {How} how
   * @param {AbortSignal} signal
   */
  async #lead(how, signal) {
    const { locks, lock } = this.#work;
    try {
      if (locks && lock !== null) await locks.request(lock, { signal }, () => this.#run(how, signal));
      else await this.#run(how, signal);
    } catch (error) {
      if (!signal.aborted) this.#work.report(error);
    }
  }

  /**
   * @param {How} how
   * @param {AbortSignal} signal
   */
  async #run(how, signal) {
    const online = () => this.#online.ring();
    globalThis.addEventListener?.("online", online);
    try {
      await this.#work.catchUp();
      await Promise.all([this.#pulls(how, signal), this.#sends(how, signal), this.#listens(how, signal)]);
    } finally {
      globalThis.removeEventListener?.("online", online);
    }
  }

  /**
   * @param {How} how
   * @param {AbortSignal} signal
   */
  async #pulls(how, signal) {
    const backoff = new Backoff(how.retry);
    const idle = new Backoff({ first: 100, longest: 1000 });
    const early = new Backoff({ first: 10, longest: 1000 });
    let upToDate = false;
    while (!signal.aborted) {
      const hurry = this.#news.take();
      const wait = upToDate && !hurry ? how.wait : undefined;
      const request = new AbortController();
      const abort = () => request.abort();
      signal.addEventListener("abort", abort);
      if (wait !== undefined) this.#waiting = request;
      const began = Date.now();
      try {
        const result = await this.#work.pull({ wait, signal: request.signal });
        backoff.reset();
        upToDate = result.upToDate;
        if (!upToDate) continue;
        if (this.#told && !this.#work.hasSeen(this.#told)) {
          // A commit is in the log before it is visible, and may have to wait for a standby.
          await this.#news.wait(early.next());
          continue;
        }
        this.#told = undefined;
        early.reset();
        if (how.wait === undefined) await this.#news.wait(how.every);
        // A server that does not wait, or is woken by what is of no interest here, is not asked in a circle.
        else if (wait !== undefined && !result.changed && Date.now() - began < 500) await this.#news.wait(idle.next());
        else idle.reset();
      } catch (error) {
        upToDate = false;
        // Asked to pull at once: what the server was waiting with is of no interest.
        if (request.signal.aborted) continue;
        await this.#pause(error, backoff);
      } finally {
        this.#waiting = undefined;
        signal.removeEventListener("abort", abort);
      }
    }
  }

  /**
   * @param {How} how
   * @param {AbortSignal} signal
   */
  async #sends(how, signal) {
    const backoff = new Backoff(how.retry);
    while (!signal.aborted) {
      try {
        const sent = await this.#work.sendNext(signal);
        backoff.reset();
        if (!sent) await this.#queued.wait();
      } catch (error) {
        if (!signal.aborted) await this.#pause(error, backoff);
      }
    }
  }

  /**
   * @param {How} how
   * @param {AbortSignal} signal
   */
  async #listens({ events, retry }, signal) {
    const backoff = new Backoff(retry);
    while (events && !signal.aborted) {
      try {
        // What another connection told of, this one tells again, or will.
        this.#told = undefined;
        for await (const event of events(signal)) {
          backoff.reset();
          this.#tell(Seen.parse(String(event)));
        }
        if (!signal.aborted) await this.#online.wait(backoff.next());
      } catch (error) {
        if (!signal.aborted) await this.#pause(error, backoff);
      }
    }
  }

  /**
   * @param {any} error
   * @param {Backoff} backoff
   */
  async #pause(error, backoff) {
    // A snapshot that lags behind the cursor, or a table that was just altered: the server asks to try again.
    if (error?.sqlstate !== "40001") this.#work.report(error);
    await this.#online.wait(backoff.next());
  }
}
