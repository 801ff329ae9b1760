//! What a transaction sees: the set of transactions that had committed or aborted at one moment.
//!
//! Only a whole snapshot is a cursor. A watermark (`xid > max(xid seen)`) loses the rows of a
//! transaction that took its id early and committed late.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// A top-level 64-bit transaction id, as SQL type `xid8`.
pub type Xid = u64;

/// More in-progress transactions than a server can have.
pub const MAX_IN_PROGRESS: usize = 1 << 20;

/// A set of seen transactions: all below `xmin`, none from `xmax` on, and between them all but `xip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmin: Xid,
    xmax: Xid,
    xip: Vec<Xid>,
}

impl Snapshot {
    /// Builds the normal form: `xip` sorted, distinct and within the bounds, `xmin` as high as it can be.
    ///
    /// Ids from `xmax` on are dropped, as they are unseen anyhow: a server's list of
    /// subtransactions may hold some.
    pub fn new(xmax: Xid, in_progress: impl IntoIterator<Item = Xid>) -> Self {
        let mut xip: Vec<Xid> = in_progress.into_iter().filter(|&xid| xid < xmax).collect();
        xip.sort_unstable();
        xip.dedup();
        let xmin = xip.first().copied().unwrap_or(xmax);
        Self { xmin, xmax, xip }
    }

    /// Every transaction below it is seen.
    pub fn xmin(&self) -> Xid {
        self.xmin
    }

    /// No transaction from it on is seen.
    pub fn xmax(&self) -> Xid {
        self.xmax
    }

    /// The unseen transactions below `xmax`, rising.
    pub fn xip(&self) -> &[Xid] {
        &self.xip
    }

    /// Whether the effects of `xid` are visible, if it committed.
    pub fn sees(&self, xid: Xid) -> bool {
        xid < self.xmax && self.xip.binary_search(&xid).is_err()
    }

    /// Sees nothing at all.
    pub fn nothing() -> Self {
        Self::new(0, [])
    }

    /// Newer than every snapshot.
    pub fn everything() -> Self {
        Self::new(Xid::MAX, [])
    }

    /// Whether it sees nothing at all, as a client that starts.
    pub fn is_empty(&self) -> bool {
        self.xmax == 0
    }

    /// What either of them sees.
    pub fn union(&self, other: &Self) -> Self {
        let unseen = self.xip.iter().filter(|&&xid| !other.sees(xid));
        let others = other.xip.iter().filter(|&&xid| !self.sees(xid));
        Self::new(self.xmax.max(other.xmax), unseen.chain(others).copied())
    }

    /// The same for all that `now` sees: what is in progress in both has left nothing that `now` could miss here.
    pub fn as_seen_by(&self, now: &Self) -> Self {
        Self::new(self.xmax, self.xip.iter().copied().filter(|&xid| now.sees(xid)))
    }

    /// The same and `xid` too. Nothing if that would leave more unseen below it than a snapshot may list.
    pub fn with(mut self, xid: Xid) -> Result<Self, Self> {
        if xid >= self.xmax {
            if xid - self.xmax >= (MAX_IN_PROGRESS - self.xip.len().min(MAX_IN_PROGRESS)) as u64 {
                return Err(self);
            }
            self.xip.extend(self.xmax..xid);
            self.xmax = xid + 1;
        } else if let Ok(place) = self.xip.binary_search(&xid) {
            self.xip.remove(place);
        }
        self.xmin = self.xip.first().copied().unwrap_or(self.xmax);
        Ok(self)
    }

    /// `older <= self`: everything that `older` sees is seen here too.
    pub fn dominates(&self, older: &Self) -> bool {
        older.xmax <= self.xmax && !self.xip.iter().any(|&xid| older.sees(xid))
    }
}

impl fmt::Display for Snapshot {
    /// The text form of SQL type `pg_snapshot`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.xip.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = Error;

    /// Reads the text form of SQL type `pg_snapshot`, strictly: no sign, no junk, no overflow.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Cursor { detail: "A snapshot is written xmin:xmax:xip,xip." };
        let mut parts = text.splitn(3, ':');
        let mut number = || parse_decimal(parts.next()?);
        let (xmin, xmax) = (number().ok_or_else(bad)?, number().ok_or_else(bad)?);
        let list = parts.next().ok_or_else(bad)?;
        let xip = list.split(',').filter(|_| !list.is_empty()).map(parse_decimal).collect::<Option<Vec<_>>>();
        let xip = xip.ok_or_else(bad)?;
        if xmin > xmax || xip.len() > MAX_IN_PROGRESS || xip.iter().any(|&xid| xid < xmin || xid >= xmax) {
            return Err(bad());
        }
        Ok(Self::new(xmax, xip))
    }
}

/// Decimal digits only; `str::parse` would accept a plus sign.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}
