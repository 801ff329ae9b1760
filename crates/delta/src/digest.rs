//! A fingerprint of a shape's rows that a client can compute from what it holds.
//!
//! Per row: the first eight bytes, as a big-endian number, of SHA-256 over relation, NUL, key text,
//! NUL, value text. The rows' numbers are added modulo 2^64, so order does not matter.

use sha2::{Digest as _, Sha256};

/// Count and hash of a set of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    /// Number of rows.
    pub rows: u64,
    /// Sum of the rows' hashes.
    pub hash: u64,
}

impl Digest {
    /// Adds one row.
    pub fn add(&mut self, relation: &str, key: &[u8], value: &[u8]) {
        let mut sha = Sha256::new();
        sha.update(relation.as_bytes());
        sha.update([0]);
        sha.update(key);
        sha.update([0]);
        sha.update(value);
        self.rows += 1;
        self.hash = self.hash.wrapping_add(head(sha));
    }

    /// The hash as sixteen hex digits.
    pub fn hex(&self) -> String {
        format!("{:016x}", self.hash)
    }
}

/// The first eight bytes, as a big-endian number.
fn head(sha: Sha256) -> u64 {
    sha.finalize().iter().take(8).fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
}

/// A 64-bit fingerprint that nobody can make of a text who does not know `secret`, the same number of bytes each time.
pub fn seal(secret: &[u8], text: &str) -> u64 {
    // Hashed twice: what comes of one pass could be gone on with.
    let inner = Sha256::new().chain_update(secret).chain_update(text).finalize();
    head(Sha256::new().chain_update(secret).chain_update(inner))
}

/// A 64-bit fingerprint of a text, for cursors' identities.
pub fn fingerprint(text: &str) -> u64 {
    let mut digest = Digest::default();
    digest.add(text, b"", b"");
    digest.hash
}
