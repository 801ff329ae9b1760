// The fingerprint of what is held, to be compared with sync_digest.

/** @returns {Promise<Crypto>} WebCrypto: a global everywhere but in Node 18; browsers have `subtle` on secure pages only */
export async function webCrypto() {
  // The name is not a literal, so that no bundler looks for it.
  const module = "node:crypto";
  return globalThis.crypto ?? (await import(module)).webcrypto;
}

/**
 * Count of rows, and the sum modulo 2^64 of the first eight bytes of SHA-256(relation, NUL, key, NUL, value).
 *
 * @param {import("./delta.js").Rows} rows
 * @returns {Promise<{ rows: number, hash: string }>}
 */
export async function digest(rows) {
  const { subtle } = await webCrypto();
  const encoder = new TextEncoder();
  let count = 0;
  let sum = 0n;
  for (const [relation, held] of rows) {
    for (const [key, row] of held) {
      const hash = await subtle.digest("SHA-256", encoder.encode(`${relation}\0${key}\0${row.text}`));
      sum += new DataView(hash).getBigUint64(0);
      count++;
    }
  }
  return { rows: count, hash: BigInt.asUintN(64, sum).toString(16).padStart(16, "0") };
}
