//! Hostile shapes and cursors through SQL: an answer is right or an error that we meant, and the server lives.
//! `FUZZ_SEED` and `FUZZ_SECONDS` choose another run.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use postgres::{Client, Error, Row};
use syncline_tests::fuzz::{SCHEMA, Source, WRITES, damaged};
use syncline_tests::rng::Rng;
use syncline_tests::{Cluster, Install};

/// Classes of SQLSTATE that bad input may be answered with.
const EXPECTED: [&str; 7] = [
    "0A", // not in the grammar
    "22", // no JSON, no cursor, a constant that its type does not take
    "3F", // a name in a constant, such as 'a.b'::regclass
    "40", // a cursor from the future
    "42", // no such table, column, type; no syntax; not allowed
    "54", // too long, too deep
    "55", // a table that is not tracked
];

/// What never stands in the log of a healthy server.
const FATAL: [&str; 4] = ["PANIC:", "FATAL:", "terminated by signal", "panicked"];

type Rows = BTreeMap<(String, String), String>;

/// A client of a shape.
struct Held {
    shape: String,
    cursor: String,
    copy: Rows,
}

struct Fuzz {
    client: Client,
    rng: Rng,
    pool: Vec<Held>,
    /// Shapes accepted, shapes refused, cursors accepted without a reset, cursors reset, cursors refused.
    counts: [u32; 5],
    /// Refusals by SQLSTATE.
    states: BTreeMap<String, u32>,
}

fn text(row: &Row, column: usize) -> String {
    row.get::<_, Option<String>>(column).unwrap_or_default()
}

/// A delta, taken as a client does; says what is wrong with it.
fn apply(delta: &[Row], copy: &mut Rows) -> Result<(String, bool), String> {
    let (mut upserts, mut stage, mut cursor) = (Rows::new(), 0, String::new());
    for row in delta {
        let key = (text(row, 1), text(row, 2));
        let rank = ["reset", "delete", "upsert", "commit"].iter().position(|op| *op == text(row, 0));
        let rank = rank.filter(|&rank| rank >= stage && stage < 3).ok_or("out of order")?;
        stage = rank;
        match rank {
            0 => copy.clear(),
            1 => drop(copy.remove(&key)),
            2 if upserts.insert(key, text(row, 3)).is_some() => return Err("two upserts of one key".to_owned()),
            2 => {}
            _ => cursor = text(row, 4),
        }
    }
    copy.extend(upserts);
    if stage == 3 { Ok((cursor, delta.len() == 1)) } else { Err("no commit".to_owned()) }
}

impl Fuzz {
    /// Rows, or an error that was to be expected.
    fn ask(&mut self, sql: &str, arguments: &[&Option<String>]) -> Option<Vec<Row>> {
        let arguments: Vec<&(dyn postgres::types::ToSql + Sync)> =
            arguments.iter().map(|argument| *argument as &(dyn postgres::types::ToSql + Sync)).collect();
        match self.client.query(sql, &arguments) {
            Ok(rows) => Some(rows),
            Err(error) => {
                let state = state(&error);
                let is_expected = EXPECTED.iter().any(|class| state.starts_with(class));
                assert!(is_expected && !self.client.is_closed(), "{sql} {arguments:.3000?}: {error:?}");
                *self.states.entry(state).or_default() += 1;
                None
            }
        }
    }

    fn changes(&mut self, since: Option<&str>, shape: &str) -> Option<Vec<Row>> {
        let sql = "SELECT op, relation, key::text, value::text, cursor FROM sync_changes($1, $2::text::jsonb)";
        self.ask(sql, &[&since.map(str::to_owned), &Some(shape.to_owned())])
    }

    /// The rows of a shape, or nothing if it is refused.
    fn preview(&mut self, shape: &str) -> Option<Rows> {
        let sql = "SELECT op, relation, key::text, value::text, cursor FROM sync_preview($1::text::jsonb)";
        let rows = self.ask(sql, &[&Some(shape.to_owned())])?;
        let mut copy = Rows::new();
        apply(&rows, &mut copy).unwrap_or_else(|wrong| panic!("preview of {shape}: {wrong}"));
        Some(copy)
    }

    /// A new shape: refused everywhere, or right everywhere.
    fn shape(&mut self) {
        let shape = Source::pick(&mut self.rng).shape(&mut self.rng);
        let rows = self.preview(&shape);
        let delta = self.changes(None, &shape);
        assert_eq!(rows.is_some(), delta.is_some(), "preview and delta differ on {shape}");
        let (Some(rows), Some(delta)) = (rows, delta) else {
            self.counts[1] += 1;
            return;
        };
        self.counts[0] += 1;
        let mut copy = Rows::new();
        let (cursor, _) = apply(&delta, &mut copy).unwrap_or_else(|wrong| panic!("{shape}: {wrong}"));
        assert_eq!(copy, rows, "first delta of {shape}");
        let again = self.changes(Some(&cursor), &shape).unwrap_or_default();
        assert_eq!(apply(&again, &mut copy).map(|(_, only_commit)| only_commit), Ok(true), "nothing is new to {shape}");
        let digest = self.ask("SELECT rows::text FROM sync_digest($1::text::jsonb)", &[&Some(shape.clone())]);
        assert_eq!(digest.map(|row| text(&row[0], 0)), Some(rows.len().to_string()), "digest of {shape}");
        let held = Held { shape, cursor, copy };
        if self.pool.len() < 50 {
            self.pool.push(held);
        } else {
            let place = self.rng.below(50) as usize;
            self.pool[place] = held;
        }
    }

    /// A client whose cursor is good keeps the law; one that sends something else gets no worse than an error.
    fn cursor(&mut self) {
        let (Some(truth), mut held) = ({
            let held = self.pool.swap_remove(self.rng.below(self.pool.len() as u32) as usize);
            (self.preview(&held.shape), held)
        }) else {
            panic!("a shape that was accepted is refused");
        };
        let other = self.rng.pick(&self.pool).cursor.clone();
        let bad = damaged(&mut self.rng, &held.cursor, &other);
        match self.changes(Some(&bad), &held.shape) {
            None => self.counts[4] += 1,
            Some(delta) => {
                let is_reset = text(&delta[0], 0) == "reset";
                self.counts[if is_reset { 3 } else { 2 }] += 1;
                let mut copy = if is_reset { Rows::new() } else { truth.clone() };
                apply(&delta, &mut copy).unwrap_or_else(|wrong| panic!("{bad} {}: {wrong}", held.shape));
                // A snapshot that never was may have seen a later writer of a row and not an earlier one: the
                // forger is told to delete what he should keep, but he is sent nothing that is not so.
                let is_true = copy.iter().all(|(key, value)| truth.get(key) == Some(value));
                assert!(is_true && (!is_reset || copy == truth), "{bad} {}: {copy:?}", held.shape);
            }
        }
        let delta = self.changes(Some(&held.cursor), &held.shape).unwrap_or_default();
        let taken = apply(&delta, &mut held.copy);
        let (next, _) = taken.unwrap_or_else(|wrong| panic!("{} {}: {wrong}", held.cursor, held.shape));
        assert_eq!(held.copy, truth, "the law for {} from {}", held.shape, held.cursor);
        self.others(&bad, &held.shape);
        if self.rng.one_in(2) {
            held.cursor = next;
        } else {
            held.copy = Rows::new();
            let delta = self.changes(None, &held.shape).unwrap_or_default();
            held.cursor = apply(&delta, &mut held.copy).unwrap_or_else(|wrong| panic!("{}: {wrong}", held.shape)).0;
        }
        self.pool.push(held);
    }

    /// The functions that give less than rows.
    fn others(&mut self, cursor: &str, shape: &str) {
        let (cursor, mut shape) = (Some(cursor.to_owned()), Some(shape.to_owned()));
        if self.rng.one_in(8) {
            shape = Some(Source::pick(&mut self.rng).shape(&mut self.rng));
        }
        match self.rng.below(4) {
            0 => {
                let xid = ["0", "3", "1000", "18446744073709551615"];
                let xid = Some((*self.rng.pick(&xid)).to_owned());
                self.ask("SELECT sync_sees($1, $2::text::xid8)", &[&cursor, &xid]);
            }
            1 => {
                shape = shape.filter(|_| !self.rng.one_in(4));
                self.ask("CALL sync_wait($1, $2::text::jsonb, '1 ms')", &[&cursor, &shape]);
            }
            _ => {
                self.ask("SELECT sync_pull($1, $2::text::jsonb)::jsonb::text", &[&cursor, &shape]);
            }
        }
    }
}

fn state(error: &Error) -> String {
    error.code().map(|code| code.code().to_owned()).unwrap_or_default()
}

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// How many of each there are at least.
const CASES: u32 = 10_000;

#[test]
fn hostile_shapes_and_cursors_are_refused_or_answered_rightly() {
    let install = Install::new();
    let cluster = Cluster::start_with(&install, &[("log_min_error_statement", "panic")]);
    let mut client = cluster.connect();
    client.batch_execute("CREATE EXTENSION syncline").unwrap();
    client.batch_execute(SCHEMA).unwrap();
    // A hang is a failure too: 57014 is not among the expected.
    client.batch_execute("SET statement_timeout = '20 s'; SET app.name = 'open'").unwrap();
    let before = cluster.log().len();
    let (seed, seconds) = (number("FUZZ_SEED", 1), Duration::from_secs(number("FUZZ_SECONDS", 0).into()));
    let mut fuzz =
        Fuzz { client, rng: Rng::new(seed.into(), 0), pool: Vec::new(), counts: [0; 5], states: BTreeMap::new() };
    let mut writer = cluster.connect();
    let (start, mut cases) = (Instant::now(), 0);
    while cases < CASES || start.elapsed() < seconds {
        cases += 1;
        fuzz.shape();
        if fuzz.pool.len() > 1 {
            fuzz.cursor();
        }
        if fuzz.rng.one_in(20) {
            writer.batch_execute(fuzz.rng.pick::<&str>(WRITES)).expect("writes succeed");
        }
    }
    let log = cluster.log();
    let fatal: Vec<&str> = log[before..].lines().filter(|line| FATAL.iter().any(|word| line.contains(word))).collect();
    assert!(fatal.is_empty(), "{fatal:.10?}");
    println!(
        "seed {seed}, {cases} cases: shapes accepted, refused; cursors accepted, reset, refused: {:?}; {:?}",
        fuzz.counts, fuzz.states
    );
    assert!(fuzz.counts.iter().all(|&count| count >= cases / 20), "toothless: {:?}", fuzz.counts);
    assert!(fuzz.states.len() >= 10, "toothless: {:?}", fuzz.states);
    assert!(fuzz.counts[0] >= cases / 10, "toothless: {:?}", fuzz.counts);
}
