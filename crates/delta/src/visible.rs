//! The transactions that a snapshot sees, as text in the shorter of two forms.
//!
//! A snapshot of a server lists few transactions that it does not see. What a stream has sent is an old
//! snapshot and some transactions after it, among many that are running or of no interest: these few are listed then.

use crate::Error;
use crate::snapshot::{MAX_IN_PROGRESS, Snapshot, Xid, parse_decimal};

/// `xmax *("_" offset) ["-" gap *("_" gap)]`: see `cursor`.
pub fn print(snapshot: &Snapshot) -> String {
    let (xmax, xip) = (snapshot.xmax(), snapshot.xip());
    // Cut at an unseen transaction: those below are listed if unseen, those above if seen.
    let seen_above = |place: usize| xmax - xip[place] - (xip.len() - place) as u64;
    let cut = (0..xip.len()).min_by_key(|&place| place as u64 + seen_above(place));
    let (base, unseen) = match cut {
        // The last one that is seen tells where the snapshot ends.
        Some(place) if snapshot.sees(xmax - 1) && place as u64 + seen_above(place) < xip.len() as u64 => {
            (xip[place], &xip[..place])
        }
        _ => (xmax, xip),
    };
    let mut text = base.to_string();
    for xid in unseen.iter().rev() {
        text.push('_');
        text.push_str(&(base - xid).to_string());
    }
    let (mut between, mut before) = ('-', base);
    let mut above = xip[unseen.len()..].iter().copied().peekable();
    for xid in base..xmax {
        if above.next_if_eq(&xid).is_none() {
            text.push(between);
            text.push_str(&(xid - before).to_string());
            (between, before) = ('_', xid);
        }
    }
    text
}

fn bad<T>(detail: &'static str) -> Result<T, Error> {
    Err(Error::Cursor { detail })
}

fn number(text: &str) -> Result<u64, Error> {
    parse_decimal(text).ok_or(Error::Cursor { detail: "A number is missing or malformed." })
}

/// Reads what [`print`] wrote.
pub fn parse(text: &str) -> Result<Snapshot, Error> {
    let out_of_range = "A transaction id is out of range.";
    let (unseen, seen) = text.split_once('-').map_or((text, None), |(unseen, seen)| (unseen, Some(seen)));
    let mut parts = unseen.split('_');
    let base: Xid = number(parts.next().unwrap_or_default())?;
    let mut xip = Vec::new();
    for part in parts {
        let offset = number(part)?;
        if offset == 0 || offset > base {
            return bad(out_of_range);
        }
        xip.push(base - offset);
    }
    let mut xmax = base;
    let mut before = base;
    for part in seen.into_iter().flat_map(|seen| seen.split('_')) {
        let gap = number(part)?;
        let Some(xid) = before.checked_add(gap).filter(|_| gap > 0) else { return bad(out_of_range) };
        if (xid - xmax) > (MAX_IN_PROGRESS.saturating_sub(xip.len())) as u64 {
            return Err(Error::Limit { what: "number of unseen transactions", limit: MAX_IN_PROGRESS });
        }
        xip.extend(xmax..xid);
        before = xid;
        xmax = xid.checked_add(1).ok_or(Error::Cursor { detail: out_of_range })?;
    }
    Ok(Snapshot::new(xmax, xip))
}
