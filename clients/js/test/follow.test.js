import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { HttpError, events, httpPull, httpPush, memory } from "../src/index.js";
import { Backoff } from "../src/timing.js";
import { FakeServer } from "./fake.js";
import { until } from "./server.js";

const names = (client) => client.rows("s", "t").map(({ name }) => name).sort();

test("pauses double up to the longest, and differ by up to a half", () => {
  const backoff = new Backoff({ first: 100, longest: 1000 });
  for (const whole of [100, 200, 400, 800, 1000, 1000]) {
    const pause = backoff.next();
    assert.ok(pause >= whole / 2 && pause <= whole, `${pause} of ${whole}`);
  }
  backoff.reset();
  assert.ok(backoff.next() <= 100);
  const pauses = new Set(Array.from({ length: 20 }, () => new Backoff().next()));
  assert.ok(pauses.size > 1);
});

test("failures are reported and tried again; 40001 is tried again and not reported", async () => {
  const server = new FakeServer();
  const errors = [new Error("down"), new HttpError(409, { sqlstate: "40001" }), new HttpError(500, { message: "broken" })];
  const reported = [];
  const client = await server.open({
    onError: (error) => reported.push(error.message),
    pull: (request) => (errors.length > 0 ? Promise.reject(errors.shift()) : server.pull(request)),
  });
  server.commit(1, { id: 1, name: "a" });
  client.start({ every: 5, retry: { first: 1 } });
  await until(() => names(client).length === 1);
  await client.close();
  assert.deepEqual(reported, ["down", "broken"]);
});

test("being online again ends the pause", async () => {
  const server = new FakeServer();
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  globalThis.removeEventListener = target.removeEventListener.bind(target);
  let offline = true;
  let failures = 0;
  const attempt = (fn) => (...args) => (offline ? (failures++, Promise.reject(new Error("offline"))) : fn(...args));
  const client = await server.open({ pull: attempt(server.pull), push: attempt(server.push) });
  await client.mutate("set", { id: 1, name: "a" });
  client.start({ every: 1_000_000, retry: { first: 1_000_000, longest: 1_000_000 } });
  await until(() => failures === 2);
  offline = false;
  target.dispatchEvent(new Event("online"));
  await until(() => client.pending.length === 0);
  await client.close();
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
});

test("a long poll is left for a pull at once when a mutation was answered", async () => {
  const server = new FakeServer();
  let waiting = 0;
  const client = await server.open({
    pull({ wait, signal, ...request }) {
      if (wait === undefined) return server.pull(request);
      assert.equal(wait, 20);
      waiting++;
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    },
  });
  client.start({ wait: 20 });
  await until(() => waiting === 1);
  await client.mutate("set", { id: 1, name: "a" });
  await until(() => client.pending.length === 0 && waiting === 2);
  await client.close();
});

test("a server that does not wait is not asked in a circle", async () => {
  const server = new FakeServer();
  let pulls = 0;
  const client = await server.open({
    async pull(request) {
      pulls++;
      await new Promise(setImmediate);
      return server.pull(request);
    },
  });
  client.start({ wait: 20 });
  await until(() => pulls === 2);
  for (let i = 0; i < 1000; i++) await new Promise(setImmediate);
  assert.ok(pulls < 20, `${pulls} pulls`);
  await client.close();
});

test("a request without an answer counts as lost, even if it does not heed its signal", async () => {
  const server = new FakeServer();
  const client = await server.open({ timeout: 20, pull: () => new Promise(() => {}) });
  await assert.rejects(client.pull(), { name: "TimeoutError" });
});

test("a client that was stopped asks no more and can be started again", async () => {
  const server = new FakeServer();
  let pulls = 0;
  const client = await server.open({ pull: (request) => (pulls++, server.pull(request)) });
  client.start({ every: 1 });
  assert.throws(() => client.start({ every: 1 }), /follows already/);
  await until(() => pulls > 3);
  await client.stop();
  const before = pulls;
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(pulls, before);
  client.start({ every: 1 });
  await until(() => pulls > before);
  await client.close();
});

/** A web server for one test. */
async function web(t, handler) {
  const server = createServer(handler);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => (server.closeAllConnections(), server.close()));
  return `http://127.0.0.1:${server.address().port}`;
}

test("requests and refusals over HTTP are what the README says", async (t) => {
  const seen = [];
  const url = await web(t, async (request, response) => {
    let text = "";
    for await (const chunk of request) text += chunk;
    seen.push(`${request.method} ${request.url} ${request.headers.authorization} ${text}`);
    const [status, body] = request.url.startsWith("/refuse") ? [422, '{"reason": "no"}'] : [503, '{"sqlstate": "40001", "message": "later"}'];
    response.writeHead(status).end(body);
  });
  const init = { headers: { Authorization: "me" } };
  const request = { cursors: { s: null }, client: "c d", wait: 20, digest: true };
  await assert.rejects(httpPull(`${url}/sync?a=b`, init)(request), { status: 503, sqlstate: "40001", message: "later" });
  const mutation = { client: "c", id: 1, name: "n", args: null };
  await assert.rejects(httpPush(`${url}/refuse`, init)(mutation), { rejected: true, reason: "no" });
  assert.deepEqual(seen, [
    'POST /sync?a=b&client=c%20d&wait=20&digest=1 me {"s":null}',
    'POST /refuse me {"client":"c","id":1,"name":"n","args":null}',
  ]);
});

test("each event is one piece of news, however it is cut; comments are none", async (t) => {
  const url = await web(t, async (_, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    for (const part of [": hello\n\n", "da", "ta: 1\r", "\n\r\n", "event: x\n\n", "id: 1\ndata\n", "\n", "database: 1\n\n", "data: not ended"]) {
      response.write(part);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    response.end();
  });
  let news = -1;
  for await (const _ of events(url)(new AbortController().signal)) news++;
  assert.equal(news, 2);
});

test("a refused stream is an error that tells the status, and a silent one counts as dead", async (t) => {
  const url = await web(t, (request, response) => {
    if (request.url === "/refused") response.writeHead(401).end();
    else response.writeHead(200).write(":\n");
  });
  const read = async (path, silence) => {
    for await (const _ of events(url + path, {}, silence)(new AbortController().signal));
  };
  await assert.rejects(read("/refused"), { status: 401 });
  await assert.rejects(read("/silent", 50), { name: "AbortError" });
});

test("an event makes the client pull, and a stream that was cut is opened again", async (t) => {
  const server = new FakeServer();
  const streams = [];
  const url = await web(t, (_, response) => {
    response.writeHead(200).write(": hello\n\n");
    streams.push(response);
  });
  const client = await server.open({ storage: memory() });
  client.start({ events: events(url), retry: { first: 1 } });
  await until(() => streams.length === 1 && client.cursors.s !== null);
  server.commit(1, { id: 1, name: "a" });
  streams[0].write("data: news\n\n");
  await until(() => names(client).length === 1);
  server.commit(2, { id: 2, name: "b" });
  streams[0].destroy();
  await until(() => names(client).length === 2);
  assert.equal(streams.length, 2);
  await client.close();
});

test("told of what is not visible yet, a client pulls until it has seen it", async () => {
  const server = new FakeServer();
  server.commit(1, { id: 1, name: "a" });
  const told = [];
  let pulls = 0;
  const client = await server.open({ pull: (request) => (pulls++, server.pull(request)) });
  const events = async function* (signal) {
    const stopped = new Promise((resolve) => signal.addEventListener("abort", resolve));
    while (!signal.aborted) {
      if (told.length > 0) yield told.shift();
      else await Promise.race([stopped, new Promise((resolve) => setTimeout(resolve, 1))]);
    }
  };
  client.start({ events });
  await until(() => names(client).length === 1);
  const xid = Number(server.commit(2, { id: 2, name: "b" }));
  server.unseen = [xid];
  told.push(String(xid + 1));
  const before = pulls;
  await until(() => pulls > before + 3);
  assert.deepEqual(names(client), ["a"]);
  server.unseen = [];
  await until(() => names(client).length === 2);
  // From then on it is left in peace.
  const afterwards = pulls;
  for (let i = 0; i < 1000; i++) await new Promise(setImmediate);
  assert.ok(pulls <= afterwards + 1, `${pulls - afterwards} pulls more`);
  await client.close();
});
