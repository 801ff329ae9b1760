// A server in a few lines, for tests that need to stand between its steps.

import { Client, memory, sees } from "../src/index.js";

/** A cursor that sees all transactions below `xmax` but those given. */
export function cursor(xmax, ...unseen) {
  return `s1.1.1.1.1.1.${[xmax, ...unseen.map((xid) => xmax - xid)].join("_")}.00000000~1.1.00000000`;
}

/** One shape "s" with a relation "t" of rows {id, name}. */
export class FakeServer {
  xid = 100;
  /** id -> [row, xid of the change]; no row if it was deleted */
  rows = new Map();
  applied = new Map();
  sent = [];
  /** Transactions that pulls do not see yet. */
  unseen = [];
  reset = null;

  commit(id, row) {
    this.rows.set(id, [row, ++this.xid]);
    return String(this.xid);
  }

  document(since) {
    const reason = this.reset ?? (since === null ? "start" : null);
    this.reset = null;
    const changes = reason === null ? [] : [{ op: "reset", value: { reason } }];
    for (const [id, [row, xid]] of this.rows) {
      if (this.unseen.includes(xid) || (reason === null && sees(since, xid))) continue;
      if (row) changes.push({ op: "upsert", relation: "t", key: { id }, value: row });
      else if (reason === null) changes.push({ op: "delete", relation: "t", key: { id } });
    }
    // Keys and values as the server spaces them.
    const text = JSON.stringify(changes).replace(/"id":/g, '"id": ');
    return `{"cursor": "${cursor(this.xid + 1, ...this.unseen)}", "up_to_date": true, "reset": ${reason !== null}, "changes": ${text}}`;
  }

  pull = async ({ cursors }) => {
    return `{${Object.entries(cursors).map(([shape, since]) => `"${shape}": ${this.document(since)}`)}}`;
  };

  push = async (mutation) => {
    this.sent.push(mutation);
    const { id, args } = mutation;
    if (!this.applied.has(id)) this.applied.set(id, this.commit(args.id, args));
    return { xid: String(this.applied.get(id)) };
  };

  open(options = {}) {
    const mutators = { set: (view, row) => view.table("s", "t").put({ id: row.id }, row) };
    return Client.open({ shapes: ["s"], storage: memory(), pull: this.pull, push: this.push, mutators, ...options });
  }
}

/** Locks as a browser has them, for clients of one process. */
export function fakeLocks() {
  let last = Promise.resolve();
  return {
    request(_name, { signal }, run) {
      const before = last;
      const stopped = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
      const granted = Promise.race([before, stopped]).then(run);
      last = Promise.all([before, granted.catch(() => {})]);
      return granted;
    },
  };
}
