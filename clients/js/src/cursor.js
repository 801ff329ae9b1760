// What a cursor's holder has seen. The text form is described in crates/delta/src/cursor.rs:
// "s1" "." system "." database "." timeline "." lsn "." epoch "." visible "." crc, and for a cursor "~" and more, where
// visible = xmax *( "_" offset ) [ "-" gap *( "_" gap ) ]: not seen are xmax and above, and each xmax - offset; but those
// behind "-" are seen, each a gap further than the one before, the first from xmax.

const POSITION = /^s1\.\d+\.\d+\.\d+\.\d+\.\d+\.([\d_-]+)\.[0-9a-f]{8}(?:~|$)/;
const VISIBLE = /^\d+(?:_\d+)*(?:-\d+(?:_\d+)*)?$/;

/** Transactions that were seen: all below a base but some, and some above it. */
export class Seen {
  /**
   * @param {bigint} base
   * @param {Iterable<bigint>} unseen below the base
   * @param {Iterable<bigint>} above seen, from the base on
   */
  constructor(base, unseen = [], above = []) {
    this.base = base;
    this.unseen = new Set(unseen);
    this.above = new Set(above);
  }

  /**
   * @param {string} text `visible`
   * @returns {Seen | undefined} undefined if it is none
   */
  static parse(text) {
    if (!VISIBLE.test(text)) return undefined;
    const [below, above] = text.split("-");
    const [base, ...offsets] = below.split("_").map(BigInt);
    let xid = base;
    const gaps = above?.split("_").map(BigInt) ?? [];
    return new Seen(base, offsets.map((offset) => base - offset), gaps.map((gap) => (xid += gap)));
  }

  /** @param {string} cursor or a position of the stream. Checksums are left to the server */
  static of(cursor) {
    const seen = Seen.parse(visible(cursor));
    if (!seen) throw new TypeError("not a cursor that this version of syncline knows");
    return seen;
  }

  /** @param {bigint} xid */
  sees(xid) {
    return xid < this.base ? !this.unseen.has(xid) : this.above.has(xid);
  }

  /**
   * @param {Seen} other
   * @returns {boolean} whether all that the other has seen was seen here
   */
  contains(other) {
    for (let xid = this.base; xid < other.base; xid++) if (other.sees(xid) && !this.sees(xid)) return false;
    return [...this.unseen].every((xid) => !other.sees(xid)) && [...other.above].every((xid) => this.sees(xid));
  }

  /**
   * @param {Seen} other
   * @returns {Seen} what was seen here or there
   */
  union(other) {
    const [low, high] = this.base < other.base ? [this, other] : [other, this];
    const unseen = [...high.unseen].filter((xid) => !low.sees(xid));
    return new Seen(high.base, unseen, [...high.above, ...low.above].filter((xid) => xid >= high.base));
  }
}

/**
 * What a cursor or a position has seen, as it stands there.
 *
 * @param {string} cursor
 * @returns {string} empty if this is none
 */
export function visible(cursor) {
  return POSITION.exec(cursor)?.[1] ?? "";
}

/**
 * Whether the holder of a cursor has seen a transaction, as SQL's `sync_sees`.
 *
 * @param {string} cursor
 * @param {string | bigint | number} xid what `pg_current_xact_id()` gave the writer
 * @returns {boolean}
 */
export function sees(cursor, xid) {
  return Seen.of(cursor).sees(BigInt(xid));
}
