// Waiting: for a bell or a time, and how long after a failure.

/** Something to wait for. A ring that nobody waits for is kept for the next who does. */
export class Bell {
  #rung = false;
  /** @type {Set<() => void>} */
  #waiting = new Set();

  /** Wakes whoever waits. */
  ring() {
    if (this.#waiting.size === 0) this.#rung = true;
    for (const wake of this.#waiting) wake();
  }

  /** Whether it rang while nobody waited; that is forgotten then. */
  take() {
    const rung = this.#rung;
    this.#rung = false;
    return rung;
  }

  /**
   * @param {number} [ms] wait no longer
   * @returns {Promise<void>}
   */
  wait(ms) {
    if (this.take()) return Promise.resolve();
    return new Promise((resolve) => {
      /** @type {ReturnType<typeof setTimeout> | undefined} */
      let timer;
      const wake = () => {
        this.#waiting.delete(wake);
        clearTimeout(timer);
        resolve();
      };
      this.#waiting.add(wake);
      if (ms !== undefined) timer = setTimeout(wake, ms);
    });
  }
}

/** How long to wait after failures in a row: doubled each time, and less by up to a half so that clients do not come all at once. */
export class Backoff {
  #failures = 0;

  /** @param {{ first?: number, longest?: number }} [limits] milliseconds */
  constructor({ first = 250, longest = 30_000 } = {}) {
    this.first = first;
    this.longest = longest;
  }

  /** @returns {number} milliseconds */
  next() {
    const whole = Math.min(this.longest, this.first * 2 ** this.#failures++);
    return whole * (0.5 + Math.random() / 2);
  }

  /** After a success. */
  reset() {
    this.#failures = 0;
  }
}
