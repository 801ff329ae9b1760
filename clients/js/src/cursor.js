// What a cursor's holder has seen. The text form is described in crates/delta/src/cursor.rs:
// "s1" "." system "." database "." timeline "." lsn "." epoch "." visible "." crc "~" identity, where
// visible = xmax *( "_" offset ): the transactions not seen are xmax and above, and each xmax - offset.

const POSITION = /^s1\.\d+\.\d+\.\d+\.\d+\.\d+\.(\d+(?:_\d+)*)\.[0-9a-f]{8}(?:~|$)/;

/**
 * Whether the holder of a cursor has seen a transaction, as SQL's `sync_sees`. Checksums are left to the server.
 *
 * @param {string} cursor
 * @param {string | bigint | number} xid what `pg_current_xact_id()` gave the writer
 * @returns {boolean}
 */
export function sees(cursor, xid) {
  const match = POSITION.exec(cursor);
  if (!match) throw new TypeError("not a cursor that this version of syncline knows");
  const [xmax, ...offsets] = match[1].split("_").map(BigInt);
  const id = BigInt(xid);
  return id < xmax && !offsets.includes(xmax - id);
}
