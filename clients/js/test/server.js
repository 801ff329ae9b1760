// A database of its own and a server over it, as the README describes one.

import { createServer } from "node:http";
import pg from "pg";

/** A database with the extension, apart from those of other test files. */
export async function database(name) {
  const admin = new pg.Client();
  await admin.connect();
  await admin.query(`DROP DATABASE IF EXISTS ${name}`);
  await admin.query(`CREATE DATABASE ${name}`);
  await admin.end();
  const pool = new pg.Pool({ database: name, max: 20, statement_timeout: 30_000 });
  await pool.query("CREATE EXTENSION syncline");
  return pool;
}

/** What a mutation throws to be refused. */
export class Refusal extends Error {}

async function inTransaction(pool, run) {
  const db = await pool.connect();
  try {
    await db.query("BEGIN");
    const result = await run(db);
    await db.query("COMMIT");
    return result;
  } catch (error) {
    await db.query("ROLLBACK");
    throw error;
  } finally {
    db.release();
  }
}

/** What was decided on a mutation before: it was refused, or else it was applied. */
async function decided(db, { client, id }) {
  const was = await db.query("SELECT rejected_reason FROM syncline.client WHERE client = $1 AND rejected_id = $2", [client, id]);
  if (was.rowCount > 0) return [422, { reason: was.rows[0].rejected_reason }];
  return [200, (await db.query("SELECT pg_current_xact_id()::text AS xid")).rows[0]];
}

async function mutate(pool, mutations, mutation) {
  const { client, id, name, args } = mutation;
  try {
    return await inTransaction(pool, async (db) => {
      const [{ isNew }] = (await db.query(`SELECT sync_mutation($1, $2) AS "isNew"`, [client, id])).rows;
      if (isNew) await mutations[name](db, args);
      return decided(db, mutation);
    });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return inTransaction(pool, async (db) => {
      // If this is false, the same mutation came twice, and the other one was applied after this one had been rolled back.
      await db.query("SELECT sync_mutation($1, $2, $3)", [client, id, error.message]);
      return decided(db, mutation);
    });
  }
}

async function pull(pool, shapes, cursors, { client, wait, digest }) {
  const asked = Object.entries(cursors).map(([id, since]) => ({ id, since, shape: shapes(client)[id] }));
  if (wait) await pool.query("CALL sync_wait($1, NULL, $2::interval)", [asked[0].since, `${wait} s`]);
  const document = "sync_pull(since, shape)";
  const withDigest = `json_build_object('document', ${document}, 'digest', (SELECT to_json(d) FROM sync_digest(shape) d))`;
  const { rows } = await pool.query(
    `SELECT json_object_agg(id, ${digest ? withDigest : document})::text AS answer
     FROM jsonb_to_recordset($1) AS r(id text, since text, shape jsonb)`,
    [JSON.stringify(asked)],
  );
  return rows[0].answer;
}

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return JSON.parse(Buffer.concat(chunks).toString());
}

/**
 * `shapes(client)` gives the shapes by name, `mutations` the functions of `(db, args)`.
 * `fault(path)` may say "down" (nothing happens) or "lost" (it happens, and the answer does not arrive).
 */
export async function serve(pool, { shapes, mutations = {}, fault = () => undefined }) {
  const streams = new Set();
  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://localhost");
    const failing = fault(url.pathname);
    if (failing === "down") return response.destroy();
    const answer = (status, text) => {
      if (failing === "lost") return response.destroy();
      response.writeHead(status, { "Content-Type": "application/json" }).end(text);
    };
    try {
      if (url.pathname === "/events") {
        response.writeHead(200, { "Content-Type": "text/event-stream" }).write(": hello\n\n");
        streams.add(response);
        response.on("close", () => streams.delete(response));
      } else if (url.pathname === "/sync") {
        answer(200, await pull(pool, shapes, await body(request), Object.fromEntries(url.searchParams)));
      } else if (url.pathname === "/one") {
        const shape = Object.values(shapes(""))[0];
        const sql = "SELECT sync_pull($1, $2)::text AS document";
        answer(200, (await pool.query(sql, [url.searchParams.get("since"), JSON.stringify(shape)])).rows[0].document);
      } else if (url.pathname === "/mutate") {
        const [status, result] = await mutate(pool, mutations, await body(request));
        answer(status, JSON.stringify(result));
      } else {
        answer(404, "{}");
      }
    } catch (error) {
      const retry = error.code === "40001";
      answer(retry ? 409 : 500, JSON.stringify({ sqlstate: error.code, message: error.message }));
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Tells all event streams that there may be news. */
    announce: () => streams.forEach((stream) => stream.write("data: news\n\n")),
    /** Cuts all event streams. */
    cut: () => streams.forEach((stream) => stream.destroy()),
    streams,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** Waits until a condition holds. The limit is for what never ends, not for what is slow. */
export async function until(condition) {
  for (let i = 0; !(await condition()); i++) {
    if (i > 3000) throw new Error(`it never came true: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
