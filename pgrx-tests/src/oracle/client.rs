//! A client: pulls, applies, and compares its copy with the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

use postgres::{Client, Error, Row};
use syncline_delta::digest::Digest;

use super::shape::Followed;
use super::{Count, Rules, Shared};
use crate::Cluster;
use crate::rng::Rng;

/// Value by relation and key.
type Copy = BTreeMap<(String, String), String>;

/// How many states of the past are kept for replay.
const PAST: usize = 40;

const PULL: &str = "SELECT op, relation, key::text, value::text, cursor \
                    FROM sync_changes($1::text, $2::text::jsonb, $3::int, $4::int)";

/// What a pull may answer instead of a delta: try again; a deadlock with DDL.
const RETRY: [&str; 2] = ["40001", "40P01"];

/// On a standby also: cancelled, since what it reads must go.
const RETRY_ON_STANDBY: [&str; 4] = ["40001", "40P01", "57014", "55P03"];

/// What any query on a standby may answer: REINDEX CONCURRENTLY waits for those who read on the primary only.
const GONE_ON_STANDBY: &str = "could not open relation with OID";

/// Where nobody alters tables.
const RETRY_UNDER_LOAD: [&str; 1] = ["40001"];

/// What a client holds.
#[derive(Clone, Default, Debug, PartialEq)]
struct Held {
    copy: Copy,
    cursor: Option<String>,
}

/// Of the servers that a client pulls from.
const NAMES: [&str; 2] = ["primary", "standby"];

/// The most rows and bytes of a page.
type Limits = (Option<i32>, Option<i32>);

/// Rows of a delta, and rows of the truth in the same snapshot.
struct Pulled {
    delta: Vec<Row>,
    truth: Vec<Row>,
}

/// A client's sessions: on the primary, on the standby, and of the client that is a table.
struct Sessions<'a> {
    shared: &'a Shared,
    servers: [&'a Cluster<'a>; 2],
    pulling: [Client; 2],
    table: Table,
    restricted: bool,
}

impl<'a> Sessions<'a> {
    fn new(shared: &'a Shared, servers: [&'a Cluster<'a>; 2]) -> Option<Self> {
        let pulling = [shared.session(servers[0], "")?, shared.session(servers[1], "")?];
        Some(Self { shared, servers, pulling, table: Table::new(shared, servers[0])?, restricted: false })
    }

    /// Who pulls from now on; whether that can be.
    fn restrict(&mut self, restricted: bool) -> bool {
        self.restricted = restricted;
        for server in 0..2 {
            match self.pulling[server].batch_execute(self.role()) {
                Ok(()) => {}
                Err(error) if self.shared.is_loss(&error) => {
                    if !self.renew(server) {
                        return false;
                    }
                }
                Err(error) => {
                    self.shared.fail(format!("{}: {error:?}", self.role()));
                    return false;
                }
            }
        }
        true
    }

    fn role(&self) -> &'static str {
        if self.restricted { "SET ROLE ann" } else { "RESET ROLE" }
    }

    /// A new session instead of a lost one; whether the run goes on.
    fn renew(&mut self, server: usize) -> bool {
        let session = self.shared.session(self.servers[server], self.role());
        session.map(|session| self.pulling[server] = session).is_some()
    }

    /// Whether the client that is a table comes to the same; one that has lost its session begins another.
    fn agrees(&mut self, before: &Held, pulled: &Pulled, after: &Held) -> Result<(), String> {
        match self.table.apply(before, pulled) {
            Ok(own) if own == *after => Ok(()),
            Ok(own) => Err(format!("apply.sql comes to {own:?}, the client to {after:?}")),
            Err(error) if self.shared.is_loss(&error) => {
                if let Some(table) = Table::new(self.shared, self.servers[0]) {
                    self.table = table;
                }
                Ok(())
            }
            Err(error) => Err(format!("apply.sql: {error:?}")),
        }
    }
}

/// Pulls until the run ends, now from the primary, now from the standby, with one cursor.
pub fn follow(shared: &Shared, primary: &Cluster<'_>, standby: &Cluster<'_>, mut rng: Rng) {
    let Some(mut sessions) = Sessions::new(shared, [primary, standby]) else { return };
    // Under load each has a few shapes that it comes back to: what a backend keeps of them is soon all there.
    let few: Option<Vec<Followed>> =
        (shared.rules == Rules::Load).then(|| (0..3).map(|_| Followed::new(&mut rng)).collect());
    let rarely = if few.is_some() { 10 } else { 60 };
    let mut followed = Followed::new(&mut rng);
    let mut paged = false;
    let mut held = Held::default();
    let mut past: Vec<Held> = Vec::new();
    while shared.is_running() {
        if rng.one_in(rarely) {
            followed = match &few {
                Some(few) => rng.pick(few).clone(),
                None => Followed::new(&mut rng),
            };
            past.clear();
            paged = rng.one_in(2);
            if !sessions.restrict(shared.secured && rng.one_in(2)) {
                return;
            }
            // The cursor of another shape is part of the test: it must reset.
            if rng.one_in(2) {
                held = Held::default();
            }
        }
        if rng.one_in(5) && !past.is_empty() {
            held = rng.pick(&past).clone();
            shared.count(Count::Replays);
        }
        let (server, together, digest) = (usize::from(rng.one_in(3)), rng.one_in(2), rng.one_in(3));
        let limits = match rng.below(6) {
            0..=2 if paged => (Some(1 + rng.below(8) as i32), None),
            3 if paged => (None, Some(100 + rng.below(600) as i32)),
            _ => (None, None),
        };
        let session = &mut sessions.pulling[server];
        let pulled = if together {
            pull_with_truth(session, &followed, &held, limits, digest)
        } else {
            pull_in_snapshot(session, &followed, &held, limits, digest, &mut rng)
        };
        match pulled {
            Ok(pulled) => {
                let before = held.clone();
                let had_cursor = before.cursor.is_some();
                let taken = take(shared, &mut held, &pulled, sessions.restricted && !paged)
                    .and_then(|()| if rng.one_in(4) { sessions.agrees(&before, &pulled, &held) } else { Ok(()) });
                if let Err(difference) = taken {
                    let delta: Vec<_> = pulled.delta.iter().map(|row| [0, 1, 2, 3, 4].map(|i| text(row, i))).collect();
                    return shared.fail(format!(
                        "on the {}, {}truth {}: shape {}\n{difference}\nsince {:?}\nbefore {:?}\ndelta {delta:?}",
                        NAMES[server],
                        if sessions.restricted { "as ann, " } else { "" },
                        if together { "in the statement that pulls" } else { "in its transaction" },
                        followed.shape,
                        before.cursor,
                        before.copy
                    ));
                }
                shared.count(Count::Pulls);
                let is_delta = had_cursor && pulled.delta.iter().all(|row| text(row, 0) != "reset");
                if let (Some(kind), true) = (followed.kind, is_delta && !paged && !sessions.restricted) {
                    shared.add_bytes(kind, sent(&pulled.delta), lacked(&before.copy, &held.copy));
                }
                if server == 1 {
                    shared.count(Count::Standby);
                }
                past.push(held.clone());
                if past.len() > PAST {
                    past.remove(0);
                }
            }
            Err(error) if shared.is_loss(&error) => {
                if !sessions.renew(server) {
                    return;
                }
            }
            Err(error) => {
                let _ = session.batch_execute("ROLLBACK");
                if !is_retry(shared, server, &error) {
                    return shared.fail(format!("on the {}: shape {}: {error:?}", NAMES[server], followed.shape));
                }
                shared.count(Count::Retries);
            }
        }
    }
}

/// Whether a client may be told this: to try again.
fn is_retry(shared: &Shared, server: usize, error: &Error) -> bool {
    let codes: &[&str] = match server {
        _ if shared.rules == Rules::Load => &RETRY_UNDER_LOAD,
        0 => &RETRY,
        _ => &RETRY_ON_STANDBY,
    };
    error.as_db_error().is_some_and(|told| {
        codes.contains(&told.code().code()) || server == 1 && told.message().starts_with(GONE_ON_STANDBY)
    })
}

fn pull_with_truth(
    client: &mut Client,
    followed: &Followed,
    held: &Held,
    limits: Limits,
    digest: bool,
) -> Result<Pulled, Error> {
    let sql = format!("{PULL} UNION ALL SELECT * FROM planned_now($5)");
    let rows = client.query(&sql, &[&held.cursor, &followed.shape, &limits.0, &limits.1, &followed.truth(digest)])?;
    let (truth, delta) = rows.into_iter().partition(|row| matches!(text(row, 0).as_str(), "truth" | "digest"));
    Ok(Pulled { delta, truth })
}

fn pull_in_snapshot(
    client: &mut Client,
    followed: &Followed,
    held: &Held,
    limits: Limits,
    digest: bool,
    rng: &mut Rng,
) -> Result<Pulled, Error> {
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")?;
    if rng.one_in(3) {
        thread::sleep(Duration::from_millis(u64::from(rng.below(40))));
    }
    let delta = client.query(PULL, &[&held.cursor, &followed.shape, &limits.0, &limits.1])?;
    let truth = client.query(&followed.truth(digest), &[])?;
    client.batch_execute("COMMIT")?;
    Ok(Pulled { delta, truth })
}

fn text(row: &Row, column: usize) -> String {
    row.get::<_, Option<String>>(column).unwrap_or_default()
}

/// Bytes of keys and values in a delta.
fn sent(delta: &[Row]) -> u64 {
    let changes = delta.iter().filter(|row| text(row, 0) != "commit");
    changes.map(|row| (text(row, 2).len() + text(row, 3).len()) as u64).sum()
}

/// The same for the smallest delta that there could have been.
fn lacked(before: &Copy, after: &Copy) -> u64 {
    let came = after.iter().filter(|(key, value)| before.get(key) != Some(value));
    let went = before.keys().filter(|key| !after.contains_key(key));
    let came = came.map(|(key, value)| key.1.len() + value.len()).sum::<usize>();
    (came + went.map(|key| key.1.len()).sum::<usize>()) as u64
}

/// Takes a delta as any client does, and compares, unless there are more pages. Where no key may be deleted that was not
/// sent, that is checked too: rows that changed between two pages are deleted without having been in one.
fn take(shared: &Shared, held: &mut Held, pulled: &Pulled, strict: bool) -> Result<(), String> {
    let (mut stage, mut upserts, mut seen, mut up_to_date) = (0, Vec::new(), BTreeSet::new(), true);
    for row in &pulled.delta {
        let op = text(row, 0);
        let rank = match op.as_str() {
            "reset" => 0,
            "delete" => 1,
            "upsert" => 2,
            "commit" => 3,
            _ => return Err(format!("unknown op {op}")),
        };
        if rank < stage || stage == 3 {
            return Err(format!("{op} out of order"));
        }
        stage = rank;
        let key = (text(row, 1), text(row, 2));
        if matches!(rank, 1 | 2) && !seen.insert(key.clone()) {
            return Err(format!("two ops for {key:?}"));
        }
        match rank {
            0 => {
                shared.count(Count::Resets);
                // No server leaves its history here: a crash is no reason.
                if ["timeline", "epoch"].iter().any(|reason| text(row, 3).contains(reason)) {
                    return Err(format!("reset {}", text(row, 3)));
                }
                held.copy.clear();
            }
            1 => {
                shared.count(Count::Deletes);
                // The inserts of items are not logged: one that came and went in between is deleted all the same.
                if held.copy.remove(&key).is_none() && strict && key.0 != "items" {
                    return Err(format!("a key that was never sent is deleted: {key:?}"));
                }
            }
            2 => {
                shared.count(Count::Upserts);
                held.copy.remove(&key);
                upserts.push((key, text(row, 3)));
            }
            _ => {
                held.cursor = Some(text(row, 4));
                up_to_date = text(row, 3) == "{\"up_to_date\": true}";
            }
        }
    }
    if stage != 3 {
        // Nothing at all is a delta too: nothing changed, and the cursor stays.
        if !pulled.delta.is_empty() {
            return Err("no commit".to_owned());
        }
    }
    held.copy.extend(upserts);
    if !up_to_date {
        shared.count(Count::Pages);
        return Ok(());
    }
    difference(&held.copy, &pulled.truth).map_or(Ok(()), Err)
}

fn difference(copy: &Copy, truth: &[Row]) -> Option<String> {
    let held: BTreeSet<(String, String)> =
        copy.iter().map(|((relation, _), value)| (relation.clone(), value.clone())).collect();
    let (digests, rows): (Vec<&Row>, Vec<&Row>) = truth.iter().partition(|row| text(row, 0) == "digest");
    let rows: BTreeSet<(String, String)> = rows.into_iter().map(|row| (text(row, 1), text(row, 3))).collect();
    // Every value contains its key: as many rows as values, or one row is held under two keys.
    if held != rows || copy.len() != rows.len() {
        let (ghosts, lost): (Vec<_>, Vec<_>) = (held.difference(&rows).collect(), rows.difference(&held).collect());
        return Some(format!("held, but not true: {ghosts:?}\ntrue, but not held: {lost:?}\ntruth {rows:?}"));
    }
    let mut digest = Digest::default();
    for ((relation, key), value) in copy {
        digest.add(relation, key.as_bytes(), value.as_bytes());
    }
    let own = (digest.rows.to_string(), digest.hex());
    let other = digests.first().map(|row| (text(row, 1), text(row, 2)));
    other.filter(|other| *other != own).map(|other| format!("sync_digest says {other:?}, the copy is {own:?}"))
}

/// The client that is itself a Postgres table: `examples/apply.sql` as users take it.
struct Table(Client);

impl Table {
    /// Temporary tables under the names that the file uses.
    fn new(shared: &Shared, primary: &Cluster<'_>) -> Option<Self> {
        const TABLES: &str = "SET application_name = 'table'; CREATE TEMP TABLE copy (relation text, key text, value text, PRIMARY KEY (relation, key)); \
             CREATE TEMP TABLE pulled (op text, relation text, key text, value text, cursor text); \
             CREATE TEMP TABLE held (cursor text)";
        shared.session(primary, TABLES).map(Self)
    }

    /// Applies the delta to what was held before.
    fn apply(&mut self, before: &Held, pulled: &Pulled) -> Result<Held, Error> {
        let session = &mut self.0;
        session.batch_execute("TRUNCATE copy, pulled, held")?;
        let (mut relations, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for ((relation, key), value) in &before.copy {
            relations.push(relation);
            keys.push(key);
            values.push(value);
        }
        let fill = "INSERT INTO copy SELECT * FROM unnest($1::text[], $2::text[], $3::text[])";
        session.execute(fill, &[&relations, &keys, &values])?;
        session.execute("INSERT INTO held SELECT $1::text WHERE $1::text IS NOT NULL", &[&before.cursor])?;
        let columns =
            [0, 1, 2, 3, 4].map(|i| -> Vec<Option<String>> { pulled.delta.iter().map(|r| r.get(i)).collect() });
        let [ops, relations, keys, values, cursors] = &columns;
        let fill =
            "INSERT INTO pulled SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])";
        session.execute(fill, &[ops, relations, keys, values, cursors])?;
        session.batch_execute(include_str!("../../../examples/apply.sql"))?;
        let copy = session.query("SELECT relation, key, value FROM copy", &[])?;
        let copy = copy.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        let cursor = session.query_opt("SELECT cursor FROM held", &[])?.map(|row| row.get(0));
        Ok(Held { copy, cursor })
    }
}
