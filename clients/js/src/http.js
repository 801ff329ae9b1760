// The network, as the README describes it. Everything here can be replaced by functions of the app.

/** An answer that is no success. */
export class HttpError extends Error {
  /**
   * @param {number} status
   * @param {any} body parsed if it is JSON
   */
  constructor(status, body) {
    super(body?.message ?? `HTTP status ${status}`);
    this.name = "HttpError";
    this.status = status;
    this.body = body;
    /** SQLSTATE, if the server tells it */
    this.sqlstate = typeof body?.sqlstate === "string" ? body.sqlstate : undefined;
  }
}

/** A mutation that the server refuses for good. */
export class Rejected extends Error {
  /** @param {string} reason */
  constructor(reason) {
    super(reason);
    this.name = "Rejected";
    this.rejected = true;
    this.reason = reason;
  }
}

/**
 * @param {string} url
 * @param {RequestInit} init
 * @returns {Promise<Response>}
 */
async function request(url, init) {
  const response = await fetch(url, init);
  if (response.ok) return response;
  const text = await response.text();
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    body = undefined;
  }
  throw new HttpError(response.status, body);
}

/**
 * @param {any} body
 * @param {RequestInit} init
 * @param {AbortSignal} [signal]
 * @returns {RequestInit}
 */
function post(body, init, signal) {
  const headers = new Headers(init.headers);
  headers.set("Content-Type", "application/json");
  return { ...init, method: "POST", body: JSON.stringify(body), headers, signal };
}

/**
 * @param {string} url
 * @param {Record<string, string | undefined>} parameters
 */
function withParameters(url, parameters) {
  const query = Object.entries(parameters).flatMap(([name, value]) => (value === undefined ? [] : `${name}=${encodeURIComponent(value)}`));
  return query.length === 0 ? url : `${url}${url.includes("?") ? "&" : "?"}${query.join("&")}`;
}

/** @typedef {{ cursors: Record<string, string | null>, client: string, wait?: number, digest?: boolean, signal?: AbortSignal }} PullRequest */
/** @typedef {{ client: string, id: number, name: string, args: any }} Mutation */

/**
 * Pulls all shapes in one request.
 *
 * @param {string} url
 * @param {RequestInit} [init]
 * @returns {(pull: PullRequest) => Promise<string>}
 */
export function httpPull(url, init = {}) {
  return async ({ cursors, client, wait, digest, signal }) => {
    const parameters = { client, wait: wait?.toString(), digest: digest ? "1" : undefined };
    return (await request(withParameters(url, parameters), post(cursors, init, signal))).text();
  };
}

/**
 * Pulls one shape from a route that takes `since` and answers with a document.
 *
 * @param {string} url
 * @param {string} shape
 * @param {RequestInit} [init]
 * @returns {(pull: PullRequest) => Promise<string>}
 */
export function httpGet(url, shape, init = {}) {
  return async ({ cursors, wait, signal }) => {
    const parameters = { since: cursors[shape] ?? undefined, wait: wait?.toString() };
    const response = await request(withParameters(url, parameters), { ...init, signal });
    return `{${JSON.stringify(shape)}: ${await response.text()}}`;
  };
}

/**
 * Sends a mutation.
 *
 * @param {string} url
 * @param {RequestInit} [init]
 * @returns {(mutation: Mutation, how?: { signal?: AbortSignal }) => Promise<{ xid?: string }>}
 */
export function httpPush(url, init = {}) {
  return async (mutation, how) => {
    try {
      return await (await request(url, post(mutation, init, how?.signal))).json();
    } catch (error) {
      if (error instanceof HttpError && error.status === 422) throw new Rejected(error.body?.reason ?? "");
      throw error;
    }
  };
}

/**
 * Server-sent events, each of which means that there may be news; its data may say what must have been seen for it. Read with
 * fetch, in browsers too: unlike EventSource it takes headers, tells the status of a refusal, and leaves it to the client when
 * to connect again.
 *
 * @param {string} url
 * @param {RequestInit} [init]
 * @param {number} [silence] milliseconds without a byte after which the connection counts as dead
 * @returns {(signal: AbortSignal) => AsyncGenerator<string>} yields an empty text when connected, and then each event's data
 */
export function events(url, init = {}, silence = 60_000) {
  return async function* (signal) {
    const controller = new AbortController();
    const abort = () => controller.abort();
    signal.addEventListener("abort", abort);
    let timer = setTimeout(abort, silence);
    try {
      const headers = new Headers(init.headers);
      headers.set("Accept", "text/event-stream");
      const response = await request(url, { ...init, headers, signal: controller.signal });
      if (!response.body) throw new TypeError("the event stream has no body");
      yield "";
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      // The event is the lines that carry its data; an empty line ends it.
      let line = "";
      /** @type {string[]} */
      const data = [];
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(abort, silence);
        const lines = (line + decoder.decode(value, { stream: true })).split(/\r\n|\n/);
        line = /** @type {string} */ (lines.pop());
        for (const complete of lines) {
          if (complete !== "") {
            if (complete === "data" || complete.startsWith("data:")) data.push(complete.slice(5).replace(/^ /, ""));
          } else if (data.length > 0) {
            yield data.splice(0).join("\n");
          }
        }
      }
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", abort);
      controller.abort();
    }
  };
}
