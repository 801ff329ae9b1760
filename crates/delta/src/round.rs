//! A delta that takes several pulls: pages.
//!
//! All pages of a round bring the client from one snapshot to another, its *target*: that of the first page. Each page is
//! read in a snapshot of its own, never an older one than the page before it, and begins behind the last candidate that
//! was looked at. Nothing is held on the server between them.
//!
//! ```text
//! round  = floor [ "." target "." exact "." stage "." table "." level *( "." value ) ] "." crc
//! exact  = "x" / "-"
//! value  = base64url of a column's text, without padding
//! ```
//!
//! `floor` and `target` are written as `visible` in a position.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Error;
use crate::cursor::{bad, checked, number};
use crate::snapshot::Snapshot;
use crate::visible;

/// What a cursor carries beyond a plain snapshot, after a page that did not end with `up_to_date`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The snapshot of the page: what is pulled next must see all of it. A row that changed behind the target was left out of
    /// the pages, and an older snapshot would not find it among the new ones.
    pub floor: Snapshot,
    /// Where to go on; nothing after the last page.
    pub open: Option<Page>,
}

/// A round that has more pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// To where the round leads.
    pub target: Snapshot,
    /// Whether the client had just the shape's rows where the round started. Behind a round of several pages it lacks rows
    /// that were not in the shape any more when their page was read, and may be again.
    pub from_exact: bool,
    /// The last candidate that was looked at.
    pub place: Place,
}

/// The parts of a round, in the order in which they are sent: all deletes come before all upserts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Keys of logged rows that left.
    Left,
    /// Keys of rows that left because a value at a level did.
    Gone,
    /// Rows that were written.
    Written,
    /// Rows that came because a value at a level did.
    Entered,
    /// All rows, for who starts.
    All,
}

const STAGES: [(Stage, char); 5] =
    [(Stage::Left, 'l'), (Stage::Gone, 'g'), (Stage::Written, 'w'), (Stage::Entered, 'e'), (Stage::All, 'a')];

/// A place among the candidates of a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The part.
    pub stage: Stage,
    /// Which of the shape's tables.
    pub table: usize,
    /// Which of its sub-selects, where the stage goes by them.
    pub level: usize,
    /// The values that the candidates are ordered by, as text.
    pub values: Vec<String>,
}

impl Round {
    /// To where it leads: on the last page nobody looks further than to what was seen.
    pub fn target(&self) -> &Snapshot {
        self.open.as_ref().map_or(&self.floor, |page| &page.target)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = visible::print(&self.floor);
        if let Some(Page { target, from_exact, place }) = &self.open {
            let exact = if *from_exact { 'x' } else { '-' };
            let stage = STAGES.iter().find(|(stage, _)| *stage == place.stage).map_or('?', |(_, word)| *word);
            text.push_str(&format!(".{}.{exact}.{stage}.{}.{}", visible::print(target), place.table, place.level));
            for value in &place.values {
                text.push('.');
                text.push_str(&URL_SAFE_NO_PAD.encode(value));
            }
        }
        write!(f, "{text}.{:08x}", crc32fast::hash(text.as_bytes()))
    }
}

impl FromStr for Round {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = checked(text)?.split('.');
        let floor = visible::parse(parts.next().unwrap_or_default())?;
        let Some(target) = parts.next() else { return Ok(Self { floor, open: None }) };
        let target = visible::parse(target)?;
        if !floor.dominates(&target) {
            return bad("Its page lies before what the page leads to.");
        }
        let from_exact = match parts.next() {
            Some("x") => true,
            Some("-") => false,
            _ => return bad("Its page does not tell from where it leads."),
        };
        let word = parts.next().unwrap_or_default();
        let Some((stage, _)) = STAGES.iter().find(|(_, known)| word.chars().eq([*known])) else {
            return bad("Its page is of no known kind.");
        };
        let mut index = || usize::try_from(number(parts.next())?).or(bad("A number is out of range."));
        let (table, level) = (index()?, index()?);
        let text = |value: &str| URL_SAFE_NO_PAD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let values = parts.map(text).collect::<Option<Vec<_>>>();
        let values = values.ok_or(Error::Cursor { detail: "A value of its page is malformed." })?;
        Ok(Self {
            floor,
            open: Some(Page { target, from_exact, place: Place { stage: *stage, table, level, values } }),
        })
    }
}
