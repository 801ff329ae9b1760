//! The cursor: what a client has seen (`position`) and of which shape (`identity`).
//!
//! Text form, made of URL-safe characters only:
//!
//! ```text
//! cursor    = position [ "~" round ] "~" identity    for `round` see that module
//! position  = "s1" "." system "." database "." timeline "." lsn "." epoch "." visible "." crc
//! visible   = xmax *( "_" offset ) [ "-" gap *( "_" gap ) ]
//!             transactions not seen: xmax and above, and each xmax - offset; but those after "-" are seen, each a gap
//!             further than the one before, the first from xmax
//! identity  = shape "." schema "." crc
//! ```
//!
//! Numbers are decimal, checksums CRC-32 in eight hex digits over all that stands before them in
//! their part. A client can tell whether it has seen a transaction from `visible` alone.
//! The checksum tells damage from design, it is no signature: whoever forges a cursor gets a delta of rows that he may
//! read anyhow. Not so under row security: a snapshot that never was may see one half of what let a role see a row, and
//! not that the other half had gone before. There the identity is *sealed*: it belongs to the position too.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::digest::seal;
use crate::round::Round;
use crate::snapshot::{Snapshot, parse_decimal};
use crate::visible;

/// The most bytes of text that are looked at.
pub const MAX_LENGTH: usize = 8 << 20;

const VERSION: &str = "s1";

/// A moment in the history of one database of one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The cluster's system identifier.
    pub system: u64,
    /// OID of the database.
    pub database: u32,
    /// Timeline on which `lsn` lies.
    pub timeline: u32,
    /// Write-ahead log position, read after the snapshot was taken.
    pub lsn: u64,
    /// The administrator's generation of cursors.
    pub epoch: u64,
    /// What was seen.
    pub snapshot: Snapshot,
}

/// What the cursor's holder follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Fingerprint of the effective shape with its typed values.
    pub shape: u64,
    /// Fingerprint of the relations' definitions that the shape reads.
    pub schema: u64,
}

/// What a client sends to get what it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The moment.
    pub position: Position,
    /// The shape.
    pub identity: Identity,
    /// Of a delta in pages; `position` tells from where it leads, and sees nothing in a first pull.
    pub round: Option<Round>,
}

/// The server as it is during a call, for [`Position::judge`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The position that a cursor made now would have.
    pub now: Position,
    /// Whether this server replays a primary's log.
    pub standby: bool,
    /// The oldest snapshot that log rows are still kept for.
    pub horizon: Snapshot,
}

/// Why a client must start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// No cursor was given.
    Start,
    /// The log rows it needs were pruned.
    TooOld,
    /// It is of another cluster, database or epoch.
    Epoch,
    /// It saw a history that this server does not have.
    Timeline,
    /// It belongs to another shape.
    Shape,
    /// The tables changed in a way that no delta can describe.
    Schema,
}

impl Reset {
    /// The word that stands in the `reset` change.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::TooOld => "too_old",
            Self::Epoch => "epoch",
            Self::Timeline => "timeline",
            Self::Shape => "shape",
            Self::Schema => "schema",
        }
    }
}

/// What a server makes of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A delta from here is exact.
    Accept,
    /// Only the whole shape is exact.
    Reset(Reset),
    /// This snapshot lacks something that the client has: try again.
    Ahead,
}

impl Position {
    /// The position of a cursor, or a position alone.
    pub fn of(text: &str) -> Result<Self, Error> {
        if text.contains('~') { Ok(text.parse::<Cursor>()?.position) } else { text.parse() }
    }

    /// Decides whether a delta can start here. `switch_point` gives the log position at which
    /// the server's history left an older timeline, or nothing if it was never on it.
    pub fn judge(&self, server: &Server, switch_point: impl FnOnce(u32) -> Option<u64>) -> Verdict {
        self.judge_between(server, &self.snapshot, &self.snapshot, switch_point)
    }

    /// Whether the log of a server that is at `now` has come past this place, or will.
    pub fn is_in_history(&self, now: &Self, standby: bool, switch_point: impl FnOnce(u32) -> Option<u64>) -> bool {
        match self.timeline.cmp(&now.timeline) {
            Ordering::Less => switch_point(self.timeline).is_some_and(|end| self.lsn <= end),
            // Positions leave only after their log is on disk: on a primary that has less, a volume was rolled back.
            Ordering::Equal => standby || self.lsn <= now.lsn,
            Ordering::Greater => false,
        }
    }

    /// As [`Position::judge`]: `newest` is the most that the client has seen, `oldest` from where it needs the log.
    fn judge_between(
        &self,
        server: &Server,
        newest: &Snapshot,
        oldest: &Snapshot,
        switch_point: impl FnOnce(u32) -> Option<u64>,
    ) -> Verdict {
        let now = &server.now;
        if (self.system, self.database, self.epoch) != (now.system, now.database, now.epoch) {
            return Verdict::Reset(Reset::Epoch);
        }
        if server.standby && self.timeline > now.timeline {
            // It may simply not have followed yet.
            return Verdict::Ahead;
        }
        if !self.is_in_history(now, server.standby, switch_point) {
            return Verdict::Reset(Reset::Timeline);
        }
        if !now.snapshot.dominates(newest) {
            return Verdict::Ahead;
        }
        if !oldest.dominates(&server.horizon) {
            return Verdict::Reset(Reset::TooOld);
        }
        Verdict::Accept
    }
}

impl Identity {
    /// Of a cursor that only the server can make: bound to its moment by `secret`.
    pub fn sealed(self, secret: &[u8], position: &Position, round: Option<&Round>) -> Self {
        let round = round.map(Round::to_string).unwrap_or_default();
        Self { shape: seal(secret, &format!("{position}~{round}~{self}")), ..self }
    }
}

impl Cursor {
    /// Decides whether a delta can start, or go on, here; see [`Position::judge`].
    pub fn judge(&self, server: &Server, switch_point: impl FnOnce(u32) -> Option<u64>) -> Verdict {
        let newest = self.round.as_ref().map_or(&self.position.snapshot, |round| &round.floor);
        self.position.judge_between(server, newest, self.oldest(), switch_point)
    }

    /// From where it needs the log: a first pull only from what it leads to.
    pub fn oldest(&self) -> &Snapshot {
        match &self.round {
            Some(Round { open: Some(page), .. }) if self.position.snapshot.is_empty() => &page.target,
            _ => &self.position.snapshot,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, database, timeline, lsn, epoch, snapshot } = self;
        let mut text = VERSION.to_owned();
        for number in [*system, u64::from(*database), u64::from(*timeline), *lsn, *epoch] {
            text.push('.');
            text.push_str(itoa::Buffer::new().format(number));
        }
        text.push('.');
        text.push_str(&visible::print(snapshot));
        write!(f, "{text}.{:08x}", crc32fast::hash(text.as_bytes()))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{}", self.shape, self.schema);
        write!(f, "{text}.{:08x}", crc32fast::hash(text.as_bytes()))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~", self.position)?;
        self.round.as_ref().map_or(Ok(()), |round| write!(f, "{round}~"))?;
        write!(f, "{}", self.identity)
    }
}

pub(crate) fn bad<T>(detail: &'static str) -> Result<T, Error> {
    Err(Error::Cursor { detail })
}

/// Splits off and verifies the checksum.
pub(crate) fn checked(text: &str) -> Result<&str, Error> {
    match text.rsplit_once('.') {
        Some((body, crc)) if format!("{:08x}", crc32fast::hash(body.as_bytes())) == crc => Ok(body),
        _ => bad("Its checksum does not match: it was cut off or altered."),
    }
}

pub(crate) fn number(text: Option<&str>) -> Result<u64, Error> {
    text.and_then(parse_decimal).ok_or(Error::Cursor { detail: "A number is missing or malformed." })
}

pub(crate) fn number32(text: Option<&str>) -> Result<u32, Error> {
    u32::try_from(number(text)?).or(bad("A number is out of range."))
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_LENGTH {
            return Err(Error::Limit { what: "cursor", limit: MAX_LENGTH });
        }
        match text.split_once('.').map(|(version, _)| version) {
            Some(VERSION) => {}
            Some(v) if v.len() > 1 && v.starts_with('s') && parse_decimal(&v[1..]).is_some() => {
                return bad("It was made by a newer version of Syncline.");
            }
            _ => return bad("It does not begin as a cursor does."),
        }
        let mut parts = checked(text)?.split('.').skip(1);
        let position = Self {
            system: number(parts.next())?,
            database: number32(parts.next())?,
            timeline: number32(parts.next())?,
            lsn: number(parts.next())?,
            epoch: number(parts.next())?,
            snapshot: visible::parse(parts.next().unwrap_or_default())?,
        };
        if parts.next().is_some() { bad("It has too many fields.") } else { Ok(position) }
    }
}

impl FromStr for Identity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = checked(text)?.split('.');
        let identity = Self { shape: number(parts.next())?, schema: number(parts.next())? };
        if parts.next().is_some() { bad("It has too many fields.") } else { Ok(identity) }
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_LENGTH {
            return Err(Error::Limit { what: "cursor", limit: MAX_LENGTH });
        }
        let Some((head, identity)) = text.rsplit_once('~') else {
            text.parse::<Position>()?;
            return bad("It is only a position: the part that tells the shape is missing.");
        };
        let (position, round) = head.split_once('~').map_or((head, None), |(head, round)| (head, Some(round)));
        let position: Position = position.parse()?;
        let (identity, round) = (identity.parse()?, round.map(str::parse::<Round>).transpose()?);
        if round.as_ref().is_some_and(|round| !round.target().dominates(&position.snapshot)) {
            return bad("Its page leads to before the place that it leads from.");
        }
        Ok(Self { position, identity, round })
    }
}
