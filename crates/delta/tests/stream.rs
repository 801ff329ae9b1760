//! The net effect of a transaction against the rows before and after it, and the texts of the stream.

use std::collections::BTreeMap;

use proptest::prelude::*;
use syncline_delta::cursor::Position;
use syncline_delta::log::sequence;
use syncline_delta::snapshot::Snapshot;
use syncline_delta::stream::net::{Cell, Decision, Net};
use syncline_delta::stream::object::{self, BATCH, Batches, Commit};
use syncline_delta::stream::options::Options;
use syncline_delta::stream::{Reason, net::Outcome};

/// A row: a filter column, a large filter column, a large column. Values from 10 on are large: unchanged ones are not logged.
type Row = [u32; 3];

fn is_large(value: u32) -> bool {
    value >= 10
}

/// A statement on keys 0 to 3; it does nothing where it cannot.
#[derive(Debug, Clone)]
enum Step {
    Insert(u8, Row),
    Delete(u8),
    Set(u8, usize, u32),
    Move(u8, u8),
    /// DELETE and INSERT of one key in one statement.
    Replace(u8, Row),
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![0..3u32, 10..13u32]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let row = || [0..3u32, 0..13u32, 0..13u32];
    let step = prop_oneof![
        (0..4u8, row()).prop_map(|(key, row)| Step::Insert(key, row)),
        (0..4u8).prop_map(Step::Delete),
        (0..4u8, 0..3usize, value()).prop_map(|(key, column, value)| Step::Set(
            key,
            column,
            if column == 0 { value % 3 } else { value }
        )),
        (0..4u8, 0..4u8).prop_map(|(from, to)| Step::Move(from, to)),
        (0..4u8, row()).prop_map(|(key, row)| Step::Replace(key, row)),
    ];
    prop::collection::vec(step, 1..9)
}

/// Key, the command that made the old row (nothing: the one that runs when this is written), what the key was, and whether
/// no shape wanted the row, which went.
type LogRow = (u8, Option<u32>, Option<Vec<Cell<u32>>>, bool);

/// A table under one transaction, and what of it is in the log.
struct Table {
    /// The row, and the command of the transaction that made it; nothing if it was found.
    rows: BTreeMap<u8, (Row, Option<u32>, bool)>,
    command: u32,
    count: u32,
    net: Net<u32>,
    /// Log rows of the statement, which are written behind its changes.
    logs: Vec<LogRow>,
    /// Those of a statement whose triggers run the next one first.
    held: Vec<LogRow>,
    /// Whether log rows are written when the transaction ends; few are written earlier.
    waits: bool,
    /// What is not written yet, with its sequence.
    waiting: Vec<(i64, LogRow)>,
    /// Whether a change was logged without a large value.
    has_large: bool,
    /// Whether rows are left out that no shape wants.
    passes: bool,
}

fn cells(row: Row) -> Vec<Cell<u32>> {
    row.map(Cell::Value).to_vec()
}

impl Table {
    fn log(&mut self, key: u8, made_by: Option<u32>, was: Option<Row>, went: bool) {
        let is_unwanted = went && was.is_some_and(|row| !is_wanted(&row));
        // The last column is no filter column.
        let was = was.map(|row| vec![Cell::Value(row[0]), Cell::Value(row[1]), Cell::Unlogged]);
        self.logs.push((key, made_by, was, is_unwanted));
    }

    fn write(&mut self, rows: Vec<LogRow>) {
        for row in rows {
            self.waiting.push((sequence(row.1, row.2.is_none(), self.count), row));
            self.count += 1;
        }
        if !self.waits || self.waiting.len() > 3 {
            self.tell();
        }
    }

    fn tell(&mut self) {
        for (seq, (key, _, was, is_unwanted)) in std::mem::take(&mut self.waiting) {
            if self.passes && is_unwanted && !self.net.has(&[key]) {
                self.net.pass_log();
            } else {
                self.net.log(&[key], seq, was);
            }
        }
    }

    /// What the trigger writes for the old row of an UPDATE or DELETE.
    fn log_old(&mut self, key: u8, changed: bool, went: bool) {
        let (row, made_by, is_inserted) = self.rows[&key];
        if made_by.is_some() && is_inserted {
            self.log(key, made_by, None, went);
        } else if changed {
            self.log(key, made_by, Some(row), went);
        }
    }

    fn delete(&mut self, key: u8) {
        self.log_old(key, true, true);
        self.rows.remove(&key);
        if self.passes && !self.net.has(&[key]) {
            self.net.pass_delete();
        } else {
            self.net.delete(&[key]);
        }
    }

    /// Whether a row is left out.
    fn passes(&mut self, key: u8, row: Row) -> bool {
        let passes = self.passes && !is_wanted(&row) && !row.into_iter().any(is_large) && !self.net.has(&[key]);
        if passes {
            self.net.pass();
        }
        passes
    }

    fn insert(&mut self, key: u8, row: Row) {
        self.rows.insert(key, (row, Some(self.command), true));
        if self.passes(key, row) {
            return;
        }
        self.net.insert(&[key], cells(row));
    }

    fn update(&mut self, from: u8, to: u8, row: Row) {
        let old = self.rows[&from].0;
        self.log_old(from, from != to || old[..2] != row[..2], false);
        if from != to {
            self.log(to, Some(self.command), None, false);
        }
        let unlogged =
            |(new, old): (u32, u32)| if is_large(new) && new == old { Cell::Unlogged } else { Cell::Value(new) };
        self.has_large |= row.iter().zip(old).any(|(&new, old)| is_large(new) && new == old);
        if from != to || !self.passes(to, row) {
            self.net.update(&[from], &[to], row.into_iter().zip(old).map(unlogged).collect());
        }
        self.rows.remove(&from);
        self.rows.insert(to, (row, Some(self.command), false));
    }

    /// Runs a statement; `outer` if its triggers run the next one before they log.
    fn run(&mut self, step: &Step, outer: bool) {
        let is_there = |key: &u8| self.rows.contains_key(key);
        match *step {
            Step::Insert(key, row) if !is_there(&key) => self.insert(key, row),
            Step::Delete(key) if is_there(&key) => self.delete(key),
            Step::Set(key, column, value) if is_there(&key) => {
                let mut row = self.rows[&key].0;
                row[column] = value;
                self.update(key, key, row);
            }
            Step::Move(from, to) if is_there(&from) && !is_there(&to) => self.update(from, to, self.rows[&from].0),
            Step::Replace(key, row) if is_there(&key) => {
                self.delete(key);
                self.insert(key, row);
            }
            _ => {}
        }
        let logs = std::mem::take(&mut self.logs);
        if outer {
            self.held = logs;
        } else {
            self.write(logs);
            let held = std::mem::take(&mut self.held);
            self.write(held);
        }
        self.command += 1;
    }
}

/// A shape: its filter's columns, and those that are sent. The filter is "each is 1 or 11".
type Shape = (&'static [usize], &'static [usize]);

const SHAPES: [Shape; 5] = [(&[0], &[0, 2]), (&[0], &[0, 1]), (&[1], &[1, 2]), (&[0, 1], &[0]), (&[], &[0, 1, 2])];

/// Those that do not want every row.
const SELECTIVE: &[Shape] = SHAPES.split_at(4).0;

fn in_shape(filter: &[usize], row: &Row) -> bool {
    filter.iter().all(|&column| row[column] % 10 == 1)
}

/// Whether a shape that does not want every row wants this one.
fn is_wanted(row: &Row) -> bool {
    SELECTIVE.iter().any(|(filter, _)| in_shape(filter, row))
}

fn holds(filter: &[usize], cells: &[Cell<u32>]) -> bool {
    filter.iter().all(|&column| matches!(cells[column], Cell::Value(value) if value % 10 == 1))
}

/// What a client that held the rows before holds after; nothing if it has to pull.
fn follow(
    before: &BTreeMap<u8, Row>,
    outcomes: &[Outcome<u32>],
    (filter, output): Shape,
) -> Option<BTreeMap<u8, Vec<u32>>> {
    let sent = |row: &Row| output.iter().map(|&column| row[column]).collect::<Vec<_>>();
    let held: BTreeMap<u8, Vec<u32>> =
        before.iter().filter(|(_, row)| in_shape(filter, row)).map(|(key, row)| (*key, sent(row))).collect();
    let mut copy = held.clone();
    for outcome in outcomes {
        let key = outcome.key[0];
        match outcome.decide(filter, output, |cells| holds(filter, cells)) {
            Decision::Nothing => {}
            Decision::Stale(_) => return None,
            Decision::Delete => {
                assert!(copy.remove(&key).is_some(), "key {key} is deleted, but was not held");
                assert!(outcome.before().is_some(), "a delete has the old key");
            }
            Decision::Upsert => {
                let cells = outcome.row.as_ref().expect("an upsert has a row");
                let value = |(place, &column): (usize, &usize)| match cells[column] {
                    Cell::Value(value) => value,
                    _ => held.get(&key).expect("what is unchanged is held")[place],
                };
                copy.insert(key, output.iter().enumerate().map(value).collect());
            }
        }
    }
    Some(copy)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn the_net_effect_of_a_transaction_leads_from_the_rows_before_to_the_rows_after(
        found in prop::collection::btree_map(0..4u8, [0..3u32, 0..13u32, 0..13u32], 0..4),
        steps in steps(),
        nested in any::<bool>(),
        passes in any::<bool>(),
        waits in any::<bool>(),
    ) {
        let rows = found.iter().map(|(key, row)| (*key, (*row, None, false))).collect();
        let mut table = Table {
            rows,
            command: 0,
            count: 0,
            net: Net::default(),
            logs: Vec::new(),
            held: Vec::new(),
            waits,
            waiting: Vec::new(),
            has_large: false,
            passes,
        };
        for (i, step) in steps.iter().enumerate() {
            table.run(step, nested && i % 2 == 0 && i + 1 < steps.len());
        }
        table.tell();
        let after: BTreeMap<u8, Row> = table.rows.iter().map(|(key, (row, _, _))| (*key, *row)).collect();
        prop_assert!(table.net.is_explained());
        let outcomes = table.net.finish();
        let has_large = table.has_large;
        for &shape in if passes { SELECTIVE } else { &SHAPES } {
            let truth: BTreeMap<u8, Vec<u32>> = after
                .iter()
                .filter(|(_, row)| in_shape(shape.0, row))
                .map(|(key, row)| (*key, shape.1.iter().map(|&column| row[column]).collect()))
                .collect();
            match follow(&found, &outcomes, shape) {
                Some(copy) => prop_assert_eq!(copy, truth, "shape {:?}", shape),
                None => prop_assert!(has_large, "shape {:?} is stale for nothing", shape),
            }
        }
    }

    #[test]
    fn a_position_survives_its_text_which_is_the_shorter_of_two(
        xmax in 50_000..51_000u64,
        xip in prop::collection::vec(0..51_000u64, 0..30),
        seen in prop::collection::vec(51_000..52_000u64, 0..30),
    ) {
        let mut snapshot = Snapshot::new(xmax, xip);
        for xid in seen {
            snapshot = snapshot.with(xid).unwrap();
            prop_assert!(snapshot.sees(xid));
        }
        let position = Position { system: 1, database: 2, timeline: 3, lsn: 4, epoch: 5, snapshot };
        let text = position.to_string();
        prop_assert_eq!(&text.parse::<Position>().unwrap(), &position);
        let listed = position.snapshot.xip().len();
        prop_assert!(text.matches(['_', '-']).count() <= listed, "{} for {} unseen", text, listed);
        prop_assert!(text.matches(['_', '-']).count() <= 60, "{}", text);
    }

    #[test]
    fn a_union_sees_what_either_sees(
        one in (1..40u64, prop::collection::vec(0..40u64, 0..10)),
        other in (1..40u64, prop::collection::vec(0..40u64, 0..10)),
    ) {
        let (one, other) = (Snapshot::new(one.0, one.1), Snapshot::new(other.0, other.1));
        let union = one.union(&other);
        for xid in 0..45 {
            prop_assert_eq!(union.sees(xid), one.sees(xid) || other.sees(xid), "{}", xid);
        }
        prop_assert!(union.dominates(&one) && union.dominates(&other));
    }

    #[test]
    fn batches_split_no_object(sizes in prop::collection::vec(1..40_000usize, 0..20)) {
        let (mut batches, mut others) = (Batches::default(), Batches::default());
        let (first, rest) = sizes.split_at(sizes.len() / 3);
        first.iter().for_each(|&size| batches.push(&vec![b'x'; size]));
        rest.iter().for_each(|&size| others.push(&vec![b'x'; size]));
        batches.append(others);
        prop_assert_eq!(batches.size(), sizes.iter().sum::<usize>());
        let texts = batches.finish();
        let objects: Vec<usize> = texts.iter().flat_map(|text| text.split(|&b| b == b'\n')).map(<[u8]>::len).collect();
        prop_assert!(texts.iter().all(|text| text.len() <= BATCH));
        prop_assert_eq!(objects, sizes);
    }
}

#[test]
fn a_snapshot_lists_no_more_than_it_may() {
    let snapshot = Snapshot::new(100, [50]).with(5_000_000);
    assert_eq!(snapshot, Err(Snapshot::new(100, [50])));
    let text = "s1.1.2.3.4.5.100-999999999";
    let text = format!("{text}.{:08x}", crc32fast::hash(text.as_bytes()));
    assert_eq!(text.parse::<Position>().unwrap_err().sqlstate(), "54000");
}

#[test]
fn a_key_that_the_log_does_not_explain_makes_the_shape_stale() {
    let decide = |net: Net<u32>| net.finish()[0].decide(&[], &[0], |_| true);
    let stale = Decision::Stale(Reason::Schema);
    // No log row of a delete, of a key that a row left, or no change at all for a log row.
    let mut net = Net::default();
    net.delete(b"k");
    assert_eq!(decide(net), stale);
    let mut net = Net::<u32>::default();
    net.pass_delete();
    assert!(!net.is_explained());
    let mut net = Net::default();
    net.update(b"k", b"l", cells([1, 1, 1]));
    assert_eq!(decide(net), stale);
    let mut net = Net::default();
    net.log(b"k", 0, Some(cells([1, 1, 1])));
    assert_eq!(decide(net), stale);
    // A log row from before the filter's column was logged.
    let mut net = Net::default();
    net.log(b"k", 0, Some(vec![Cell::<u32>::Unlogged]));
    net.delete(b"k");
    assert_eq!(net.finish()[0].decide(&[0], &[0], |_| true), stale);
}

#[test]
fn an_unlogged_column_is_left_to_the_client_only_if_it_has_the_row() {
    let outcome = |logged: bool, from: &[u8]| {
        let mut net = Net::default();
        net.update(from, b"k", vec![Cell::Value(1), Cell::Unlogged]);
        if logged {
            net.log(from, 0, Some(vec![Cell::Value(2), Cell::Unlogged]));
        }
        net.finish().remove(0)
    };
    let is_one = |cells: &[Cell<u32>]| cells[0] == Cell::Value(1);
    assert_eq!(outcome(false, b"k").decide(&[0], &[0, 1], is_one), Decision::Upsert);
    assert_eq!(outcome(true, b"k").decide(&[0], &[0, 1], is_one), Decision::Stale(Reason::Toast), "it enters");
    assert_eq!(outcome(true, b"k").decide(&[0], &[0], is_one), Decision::Upsert);
    // What no change logged is what the transaction found, and that tells the log row.
    let mut net = Net::default();
    net.update(b"k", b"k", vec![Cell::Value(1), Cell::Unlogged]);
    net.log(b"k", 0, Some(vec![Cell::Value(2), Cell::Value(5)]));
    assert_eq!(net.finish()[0].decide(&[0, 1], &[0, 1], is_one), Decision::Upsert);
    assert_eq!(outcome(true, b"a").decide(&[], &[0], |_| true), Decision::Delete, "the old key");
    assert_eq!(
        outcome(false, b"k").decide(&[1], &[0], is_one),
        Decision::Stale(Reason::Toast),
        "the filter's own column"
    );
}

fn refused(pairs: &[(&str, Option<&str>)]) -> (String, &'static str) {
    let error = Options::parse(pairs.iter().copied()).unwrap_err();
    assert!(error.hint().is_some() || error.sqlstate() == "54000", "{error}");
    (error.to_string(), error.sqlstate())
}

#[test]
fn options_are_read() {
    let shapes =
        r#"{"a": {"tables": {"t": {"where": "f = $1"}}, "params": [1]}, "b": {"tables": {"u": {}}, "int8": "string"}}"#;
    let pairs = [("shapes", Some(shapes)), ("not_before", Some("750")), ("topics", Some(r#"["chat.", "x"]"#))];
    let options = Options::parse(pairs).unwrap();
    assert_eq!(options.shapes.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(
        options.shapes[0].1.tables[0].filter.as_ref().unwrap().params().is_empty(),
        "the value stands in the filter"
    );
    assert_eq!(options.not_before, Some(750));
    assert!(options.wants("chat.room") && options.wants("xy") && !options.wants("chat"));
    assert!(Options::parse([]).unwrap().shapes.is_empty());
}

#[test]
fn unknown_duplicate_and_malformed_options_are_refused() {
    let shape = r#"{"tables": {"t": {}}}"#;
    let one = format!("{{\"a\": {shape}}}");
    assert_eq!(refused(&[("shape", Some("x"))]), ("option \"shape\" is not known".into(), "22023"));
    assert_eq!(
        refused(&[("topics", Some("[]")), ("topics", Some("[]"))]),
        ("option \"topics\" is given twice".into(), "22023")
    );
    assert_eq!(refused(&[("shapes", None)]), ("option \"shapes\" has no value".into(), "22023"));
    for malformed in [
        "",
        "[]",
        "1",
        "{\"a\": 1}",
        "{\"\": {\"tables\": {\"t\": {}}}}",
        &format!("{{\"a\": {shape}, \"a\": {shape}}}"),
    ] {
        assert_eq!(refused(&[("shapes", Some(malformed))]).1, "22023", "{malformed}");
    }
    for malformed in ["", "{}", "[1]", "chat"] {
        assert_eq!(refused(&[("topics", Some(malformed))]).1, "22023", "{malformed}");
    }
    for malformed in ["", "-1", "0", "2", "1e3", "+5", "99999999999999999999"] {
        assert_eq!(refused(&[("not_before", Some(malformed))]).1, "22023", "{malformed}");
    }
    assert_eq!(refused(&[("since", Some("nonsense"))]).1, "22P02");
    let position = Position { system: 1, database: 2, timeline: 3, lsn: 4, epoch: 5, snapshot: Snapshot::new(9, []) };
    let text = position.to_string();
    assert_eq!(refused(&[("since", Some(&text)), ("not_before", Some("9"))]).1, "22023");
    assert_eq!(
        Options::parse([("since", Some(text.as_str())), ("shapes", Some(one.as_str()))]).unwrap().since,
        Some(position)
    );
}

#[test]
fn what_only_a_session_knows_is_refused() {
    for filter in ["s = current_user", "s = current_setting('app.x')", "f IN (SELECT f FROM u WHERE s = current_user)"]
    {
        let shapes = format!(r#"{{"a": {{"tables": {{"t": {{"where": "{filter}"}}}}}}}}"#);
        assert_eq!(refused(&[("shapes", Some(&shapes))]).1, "0A000", "{filter}");
    }
    assert_eq!(refused(&[("shapes", Some(r#"{"a": {"shape": "named", "params": [1]}}"#))]).1, "0A000");
}

#[test]
fn objects_are_json_on_one_line() {
    let mut upsert = object::change("upsert", "a\"b", "t\n");
    upsert.extend_from_slice(br#"{"id": 1}, "value": {"id": 1}"#);
    object::unchanged(&mut upsert, ["x\"", "y"].into_iter());
    let commit = Commit { cursor: "c", xid: 9, lsn: 0x1_0000_00ff, time: 5_097_600_000_001, shapes: vec!["a", "b"] };
    let objects = [
        (
            upsert,
            r#"{"op": "upsert", "shape": "a\"b", "relation": "t\n", "key": {"id": 1}, "value": {"id": 1}, "unchanged": ["x\"", "y"]}"#,
        ),
        (
            object::stale("a", 7, Reason::Parent),
            r#"{"op": "stale", "value": {"shape": "a", "xid": 7, "reason": "parent"}}"#,
        ),
        (
            object::message("t", b"[1]", false),
            r#"{"op": "message", "topic": "t", "payload": [1], "transactional": false}"#,
        ),
        (
            commit.object(),
            r#"{"op": "commit", "cursor": "c", "value": {"up_to_date": true, "xid": 9, "commit_lsn": "1/FF", "commit_time": "2000-02-29T00:00:00.000001+00:00", "shapes": ["a", "b"]}}"#,
        ),
    ];
    for (object, expected) in objects {
        let text = String::from_utf8(object).unwrap();
        assert_eq!(text, expected);
        assert!(!text.contains('\n') && serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}

#[test]
fn a_message_that_anybody_may_have_written_is_taken_only_if_it_is_one_line_of_json() {
    assert_eq!(object::published("5:ch.é{\"a\": 1}".as_bytes()), Some(("ch.é", "{\"a\": 1}")));
    assert_eq!(object::published(b"1:tnull"), Some(("t", "null")));
    for forged in ["", "t", "x:t1", "9:t1", "1:t", "1:t{}\n{}", "1:t{\n}", "1:t1 2", "-1:t1", "+1:t1", "4:ch.é1"] {
        assert_eq!(object::published(forged.as_bytes()), None, "{forged}");
    }
    assert_eq!(object::published(b"1:t\"\xff\""), None);
}
