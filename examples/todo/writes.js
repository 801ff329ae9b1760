// What can be written, by whom, and what to say if it cannot.

/** The database said no for good; `reason` is for people. */
class Refusal extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

// $1 is the arguments. Row security says who may: what touches no row was not allowed, or has nothing left to change.
const WRITES = {
  addList: `INSERT INTO list (id, title) SELECT id, trim(title) FROM jsonb_populate_record(NULL::list, $1)`,
  addMember: `INSERT INTO member (list_id, name) SELECT list_id, trim(name) FROM jsonb_populate_record(NULL::member, $1)`,
  removeMember: `DELETE FROM member WHERE list_id = ($1::jsonb->>'list_id')::uuid AND name = $1::jsonb->>'name'`,
  addTodo: `INSERT INTO todo (id, list_id, title, made) SELECT id, list_id, trim(title), made FROM jsonb_populate_record(NULL::todo, $1)`,
  renameTodo: `UPDATE todo SET title = trim($1::jsonb->>'title') WHERE id = ($1::jsonb->>'id')::uuid`,
  checkTodo: `UPDATE todo SET done = ($1::jsonb->>'done')::boolean WHERE id = ($1::jsonb->>'id')::uuid`,
  deleteTodo: `DELETE FROM todo WHERE id = ($1::jsonb->>'id')::uuid`,
};

const REASONS = {
  todo_taken: ({ title }) => `“${title}” is already on this list.`,
  todo_title: () => "A todo needs a title, of 200 characters at most.",
  list_title: () => "A list needs a name, of 80 characters at most.",
  member_name: () => "A member needs a name, of 40 characters at most.",
  member_pkey: ({ name }) => `${name} is already a member.`,
};

/**
 * Applies a mutation in a transaction of its own, once: a browser sends it again when no answer came.
 *
 * @param {import("pg").Pool} pool
 * @param {string} who
 * @param {{ client?: string, id?: number, name: string, args: any }} mutation without a client it is not recorded
 * @param {(db: import("pg").PoolClient) => Promise<any>} [read] what to read before the end, own changes included
 * @returns {Promise<{ xid: string } | { reason: string }>}
 */
export async function write(pool, who, mutation, read) {
  try {
    return await asUser(pool, who, async (db) => {
      if (await record(db, mutation)) await apply(db, mutation);
      await read?.(db);
      return recorded(db, mutation);
    });
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const { reason } = error;
    if (!mutation.client) return { reason };
    return asUser(pool, who, async (db) => {
      await record(db, mutation, reason);
      return recorded(db, mutation);
    });
  }
}

/**
 * One transaction with the rights of a user: Postgres and Syncline let him see and write what the policies of schema.sql
 * allow. Role and setting end with the transaction.
 *
 * @template T
 * @param {import("pg").Pool} pool
 * @param {string} who
 * @param {(db: import("pg").PoolClient) => Promise<T>} run
 * @returns {Promise<T>}
 */
export async function asUser(pool, who, run) {
  const db = await pool.connect();
  let broken;
  try {
    await db.query("BEGIN; SET LOCAL ROLE todo_user");
    await db.query("SELECT set_config('app.user', $1, true)", [who]);
    const result = await run(db);
    await db.query("COMMIT");
    return result;
  } catch (error) {
    await db.query("ROLLBACK").catch((lost) => (broken = lost));
    throw error;
  } finally {
    db.release(broken);
  }
}

/** @returns {Promise<boolean>} false if it was applied or refused before */
async function record(db, { client, id }, reason = null) {
  return !client || (await db.query("SELECT sync_mutation($1, $2, $3) AS fresh", [client, id, reason])).rows[0].fresh;
}

/** The answer is what is recorded: of one mutation sent twice at a time, the other one may have decided. */
async function recorded(db, { client, id }) {
  const refused = await db.query("SELECT rejected_reason AS reason FROM syncline.client WHERE client = $1 AND rejected_id = $2", [client, id]);
  return refused.rows[0] ?? (await db.query("SELECT pg_current_xact_id()::text AS xid")).rows[0];
}

async function apply(db, { name, args }) {
  if (!Object.hasOwn(WRITES, name)) throw new Refusal("This version of the page is too old: please reload it.");
  const missing = new Refusal("It is no longer there, or no longer shared with you.");
  const { rowCount, command } = await db.query(WRITES[name], [JSON.stringify(args)]).catch((error) => {
    if (Object.hasOwn(REASONS, error.constraint ?? "")) throw new Refusal(REASONS[error.constraint](args));
    if (error.code === "42501") throw missing;
    // Class 22 and 23: the data is not valid, however often it is sent.
    throw /^2[23]/.test(error.code) ? new Refusal("That cannot be saved.") : error;
  });
  // What is to be deleted and is not there is fine.
  if (rowCount === 0 && command !== "DELETE") throw missing;
}
