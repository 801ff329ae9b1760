// The other live source: a relay that follows a slot with the output plugin. It holds who is on which list, and tells only those
// whose lists a commit touched.

import { randomUUID } from "node:crypto";
import { LogicalReplicationService } from "pg-logical-replication";
import { StreamCopy } from "../../clients/js/src/index.js";

// Schemas are written: the connection may have another search path.
const SHAPE = `{"tables": {"list": {"table": "public.list", "columns": ["id"]}, "member": {"table": "public.member"},
  "todo": {"table": "public.todo", "columns": ["list_id"]}}}`;

/**
 * Follows until the connection breaks.
 *
 * @param {import("pg").Pool} pool
 * @param {(news: string, concerns?: (who: string) => boolean) => void} tell `news` is what a pull must have seen
 */
export async function relay(pool, tell) {
  const pull = async () => (await pool.query("SELECT sync_pull(NULL, $1, NULL)::text AS text", [SHAPE])).rows[0].text;
  const service = new LogicalReplicationService({});
  let copy;
  const plugin = {
    async start(db, slot) {
      // The slot ends with the connection, as the copy does: nothing stays behind, and nothing is lost if it is not acknowledged.
      await db.query(`CREATE_REPLICATION_SLOT ${slot} TEMPORARY LOGICAL syncline NOEXPORT_SNAPSHOT`);
      const next = (await db.query("SELECT pg_current_xact_id()::text AS xid")).rows[0].xid;
      copy = new StreamCopy({ shapes: ["all"], next, pull, onError: (error) => console.error(`pulling for the relay: ${error.message}`) });
      tell(next);
      return db.query(`START_REPLICATION SLOT ${slot} LOGICAL 0/0 (shapes '{"all": ${SHAPE}}', not_before '${next}')`);
    },
    parse: (bytes) => bytes.toString(),
  };
  service.on("error", () => {}); // `subscribe` fails as well.
  service.on("heartbeat", (lsn, _time, isAsked) => isAsked && service.acknowledge(lsn));
  service.on("data", (_lsn, text) => copy.read(text).forEach((commit) => announce(copy, commit, tell)));
  // Without them positions grow.
  const heartbeat = setInterval(() => pool.query("SELECT sync_heartbeat()").catch(() => {}), 5000);
  try {
    await service.subscribe(plugin, `todo_${randomUUID().replaceAll("-", "")}`);
  } finally {
    clearInterval(heartbeat);
    copy?.close();
    await service.destroy().catch(() => {});
  }
}

/** Tells those who are or were on a list that a commit touched; everybody, where that is not known. */
function announce(copy, commit, tell) {
  const before = copy.rows("all");
  const [lists, names] = [new Set(), new Set()];
  let isKnown = before !== undefined;
  for (const { relation, key, value } of commit.changes.get("all") ?? []) {
    const rows = [JSON.parse(key), value ? JSON.parse(value) : {}, before?.get(relation)?.get(key)?.value ?? {}];
    const touched = rows.map(({ id, list_id }) => (relation === "list" ? id : list_id)).filter(Boolean);
    // The copy may be ahead of the stream: then a todo whose deletion comes is gone from it.
    isKnown &&= touched.length > 0;
    touched.forEach((list) => lists.add(list));
    rows.forEach(({ name }) => names.add(name));
  }
  const addMembers = (rows) => {
    for (const { value } of rows?.get("member")?.values() ?? []) if (lists.has(value.list_id)) names.add(value.name);
  };
  addMembers(before);
  copy.apply(commit);
  addMembers(copy.rows("all"));
  isKnown &&= copy.rows("all") !== undefined;
  tell(commit.visible, (who) => !isKnown || names.has(who));
}
