// What can be written, by whom, and what to say if it cannot.

/** The database said no for good; `reason` is for people. */
export class Refusal extends Error {
  constructor(reason) {
    super(reason);
    this.reason = reason;
  }
}

// $1 is who asks, $2 the arguments. What touches no row was not allowed, or has nothing left to change.
const WRITES = {
  addList: `WITH made AS (INSERT INTO list (id, title) SELECT id, trim(title) FROM jsonb_populate_record(NULL::list, $2) RETURNING id)
            INSERT INTO member (list_id, name) SELECT id, $1 FROM made`,
  addMember: `INSERT INTO member (list_id, name) SELECT list_id, trim(name) FROM jsonb_populate_record(NULL::member, $2) WHERE may($1, list_id)`,
  removeMember: `DELETE FROM member WHERE list_id = ($2::jsonb->>'list_id')::uuid AND name = $2::jsonb->>'name' AND may($1, list_id)`,
  addTodo: `INSERT INTO todo (id, list_id, title, made)
            SELECT id, list_id, trim(title), made FROM jsonb_populate_record(NULL::todo, $2) WHERE may($1, list_id)`,
  renameTodo: `UPDATE todo SET title = trim($2::jsonb->>'title') WHERE id = ($2::jsonb->>'id')::uuid AND may($1, list_id)`,
  checkTodo: `UPDATE todo SET done = ($2::jsonb->>'done')::boolean WHERE id = ($2::jsonb->>'id')::uuid AND may($1, list_id)`,
  deleteTodo: `DELETE FROM todo WHERE id = ($2::jsonb->>'id')::uuid AND may($1, list_id)`,
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
 */
export async function write(pool, who, { client, id, name, args }, read) {
  const db = await pool.connect();
  let broken;
  try {
    await db.query("BEGIN");
    if (!client || (await db.query("SELECT sync_mutation($1, $2) AS fresh", [client, id])).rows[0].fresh) {
      const reason = await attempt(db, who, name, args);
      if (reason && client) {
        await db.query("ROLLBACK");
        await db.query("SELECT sync_mutation($1, $2, $3)", [client, id, reason]);
      }
      if (reason) throw new Refusal(reason);
    } else {
      const { rows } = await db.query("SELECT rejected_reason AS reason FROM syncline.client WHERE client = $1 AND rejected_id = $2", [client, id]);
      if (rows.length > 0) throw new Refusal(rows[0].reason);
    }
    await read?.(db);
    const { xid } = (await db.query("SELECT pg_current_xact_id()::text AS xid")).rows[0];
    await db.query("COMMIT");
    return { xid };
  } catch (error) {
    await db.query("ROLLBACK").catch((lost) => (broken = lost));
    throw error;
  } finally {
    db.release(broken);
  }
}

/** @returns {Promise<string | undefined>} the reason if it is refused */
async function attempt(db, who, name, args) {
  if (!Object.hasOwn(WRITES, name)) return "This version of the page is too old: please reload it.";
  try {
    const { rowCount, command } = await db.query(WRITES[name], [who, JSON.stringify(args)]);
    // What is to be deleted and is not there is fine.
    if (rowCount === 0 && command !== "DELETE") return "It is no longer there, or no longer shared with you.";
  } catch (error) {
    if (Object.hasOwn(REASONS, error.constraint ?? "")) return REASONS[error.constraint](args);
    // Class 22 and 23: the data is not valid, however often it is sent.
    if (/^2[23]/.test(error.code)) return "That cannot be saved.";
    throw error;
  }
}
