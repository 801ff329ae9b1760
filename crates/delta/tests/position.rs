//! Snapshots, cursors, the order of log rows, JSON text.

use proptest::prelude::*;
use syncline_delta::cursor::{Cursor, Identity, Position, Reset, Server, Verdict};
use syncline_delta::log::{self, sequence};
use syncline_delta::round::{Page, Place, Round, Stage};
use syncline_delta::snapshot::Snapshot;
use syncline_delta::{Error, json};

fn snapshots() -> impl Strategy<Value = Snapshot> {
    (1u64..200, proptest::collection::vec(0u64..220, 0..20)).prop_map(|(xmax, xip)| Snapshot::new(xmax, xip))
}

fn cursors() -> impl Strategy<Value = Cursor> {
    let numbers = (any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    (numbers, snapshots(), rounds()).prop_map(
        |((system, database, timeline, lsn, epoch, shape, schema), seen, round)| {
            // A round leads forward.
            let seen =
                if round.as_ref().is_some_and(|r| !r.target().dominates(&seen)) { Snapshot::nothing() } else { seen };
            Cursor {
                position: Position { system, database, timeline, lsn, epoch, snapshot: seen },
                identity: Identity { shape, schema },
                round,
            }
        },
    )
}

fn rounds() -> impl Strategy<Value = Option<Round>> {
    let stage =
        prop_oneof![Just(Stage::Left), Just(Stage::Gone), Just(Stage::Written), Just(Stage::Entered), Just(Stage::All)];
    let place = (stage, 0usize..9, 0usize..40, proptest::collection::vec(".*", 0..4));
    let place = place.prop_map(|(stage, table, level, values)| Place { stage, table, level, values });
    let page = (snapshots(), proptest::option::of((snapshots(), any::<bool>(), place)));
    let round = page.prop_map(|(floor, open)| {
        let open = open.map(|(target, from_exact, place)| Page {
            target: if floor.dominates(&target) { target } else { floor.clone() },
            from_exact,
            place,
        });
        Round { floor, open }
    });
    proptest::option::of(round)
}

proptest! {
    #[test]
    fn domination_is_inclusion_of_what_is_seen(a in snapshots(), b in snapshots()) {
        let included = (0..260).all(|xid| !a.sees(xid) || b.sees(xid));
        // Bounds count too: a snapshot that ends later may see the same so far.
        prop_assert_eq!(b.dominates(&a), included && a.xmax() <= b.xmax());
    }

    #[test]
    fn what_is_in_progress_in_both_is_not_missed(since in snapshots(), now in snapshots()) {
        let short = since.as_seen_by(&now);
        prop_assert!((0..260).all(|xid| !now.sees(xid) || since.sees(xid) == short.sees(xid)));
        prop_assert!(short.xip().iter().all(|&xid| now.sees(xid)));
        prop_assert_eq!(short.xmax(), since.xmax());
    }

    #[test]
    fn snapshot_text_is_read_back(a in snapshots()) {
        prop_assert_eq!(a.to_string().parse::<Snapshot>(), Ok(a));
    }

    #[test]
    fn cursor_text_is_read_back_and_url_safe(cursor in cursors()) {
        let text = cursor.to_string();
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
        prop_assert_eq!(text.parse::<Cursor>(), Ok(cursor));
    }

    #[test]
    fn a_damaged_cursor_is_refused(cursor in cursors(), at in any::<prop::sample::Index>(), bit in 0u8..7) {
        let mut text = cursor.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] ^= 1 << bit;
        if let Ok(text) = String::from_utf8(text) {
            prop_assert!(text.parse::<Cursor>().is_err());
        }
    }

    #[test]
    fn a_truncated_cursor_is_refused(cursor in cursors(), at in any::<prop::sample::Index>()) {
        let text = cursor.to_string();
        prop_assert!(text[..at.index(text.len())].parse::<Cursor>().is_err());
    }

    #[test]
    fn any_text_is_a_cursor_or_an_error(text in ".*") {
        if let Err(error) = text.parse::<Cursor>() {
            prop_assert_eq!(error.sqlstate(), "22P02");
        }
    }

    #[test]
    fn strings_are_valid_json(text in ".*") {
        let mut out = Vec::new();
        json::string(&mut out, text.as_bytes());
        prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
    }

    #[test]
    fn numbers_lose_their_exponent_and_nothing_else(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
        let mut out = Vec::new();
        json::number(&mut out, format!("{value:e}").as_bytes());
        let text = String::from_utf8(out).unwrap();
        prop_assert!(!text.contains('e'));
        prop_assert_eq!(text.parse::<f64>().unwrap(), if value == 0.0 { 0.0 } else { value });
    }
}

fn position(snapshot: Snapshot) -> Position {
    Position { system: 1, database: 2, timeline: 3, lsn: 100, epoch: 5, snapshot }
}

fn server(snapshot: Snapshot) -> Server {
    Server { now: position(snapshot), standby: false, horizon: Snapshot::new(3, []) }
}

fn judge(position: &Position, server: &Server) -> Verdict {
    position.judge(server, |_| None)
}

#[test]
fn cursor_of_the_same_history_is_accepted() {
    let seen = Snapshot::new(10, [7]);
    assert_eq!(judge(&position(seen), &server(Snapshot::new(12, [11]))), Verdict::Accept);
}

#[test]
fn cursor_that_saw_more_is_ahead() {
    let seen = Snapshot::new(12, [7]);
    assert_eq!(judge(&position(seen.clone()), &server(Snapshot::new(10, []))), Verdict::Ahead);
    assert_eq!(judge(&position(seen), &server(Snapshot::new(12, [8]))), Verdict::Ahead);
}

#[test]
fn horizon_counts_by_visibility_not_by_xmax() {
    let mut server = server(Snapshot::new(20, []));
    server.horizon = Snapshot::new(9, []);
    let seen = Snapshot::new(10, [5]);
    assert_eq!(judge(&position(seen), &server), Verdict::Reset(Reset::TooOld));
}

#[test]
fn foreign_cursor_resets() {
    let server = server(Snapshot::new(20, []));
    for change in [|p: &mut Position| p.system = 9, |p: &mut Position| p.database = 9, |p: &mut Position| p.epoch = 9] {
        let mut foreign = position(Snapshot::new(10, []));
        change(&mut foreign);
        assert_eq!(judge(&foreign, &server), Verdict::Reset(Reset::Epoch));
    }
}

#[test]
fn cursor_from_before_the_switch_survives_a_failover_and_a_later_one_does_not() {
    let mut server = server(Snapshot::new(20, []));
    server.now.timeline = 4;
    let old = position(Snapshot::new(10, []));
    assert_eq!(old.judge(&server, |tli| (tli == 3).then_some(100)), Verdict::Accept);
    assert_eq!(old.judge(&server, |_| Some(99)), Verdict::Reset(Reset::Timeline));
    assert_eq!(old.judge(&server, |_| None), Verdict::Reset(Reset::Timeline));
}

#[test]
fn volume_rolled_back_on_one_timeline_resets() {
    let mut server = server(Snapshot::new(20, []));
    server.now.lsn = 99;
    assert_eq!(judge(&position(Snapshot::new(10, [])), &server), Verdict::Reset(Reset::Timeline));
    server.standby = true;
    assert_eq!(judge(&position(Snapshot::new(10, [])), &server), Verdict::Accept);
}

#[test]
fn newer_version_says_so() {
    let text = position(Snapshot::new(10, [])).to_string().replacen("s1", "s2", 1);
    let error = text.parse::<Position>().unwrap_err();
    assert_eq!(error, Error::Cursor { detail: "It was made by a newer version of Syncline." });
}

#[test]
fn position_order_decides_between_transactions_where_ids_do_not() {
    let early = log::Place { xid: 9, seq: 5, pos: 10 };
    let late = log::Place { xid: 4, seq: 0, pos: 20 };
    assert!(early.precedes(&late) && !late.precedes(&early));
}

#[test]
fn row_that_a_transaction_found_precedes_what_it_made_whatever_was_logged_first() {
    // An AFTER trigger's own statement (command 4) is logged before the statement that fired it.
    let inner = log::Place { xid: 9, seq: sequence(Some(4), false, 0), pos: 10 };
    let outer = log::Place { xid: 9, seq: sequence(None, false, 1), pos: 20 };
    assert!(outer.precedes(&inner) && !inner.precedes(&outer));
    let last = log::MAX_PER_TRANSACTION - 1;
    assert!(sequence(Some(0), true, 0) > sequence(None, false, last));
    // A row comes before it changes, whichever of the two is logged first.
    assert!(sequence(Some(4), true, last) < sequence(Some(4), false, 0));
    assert!(sequence(Some(u32::MAX - 1), false, last) > sequence(Some(u32::MAX - 1), true, last));
}

#[test]
fn shortest_floats_become_positional() {
    for (text, expected) in [
        ("1e+100", format!("1{}", "0".repeat(100))),
        ("1.5e-07", "0.00000015".to_owned()),
        ("-1.25e+02", "-125".to_owned()),
        ("1.2345e+02", "123.45".to_owned()),
        ("-0", "0".to_owned()),
        ("NaN", "\"NaN\"".to_owned()),
        ("-Infinity", "\"-Infinity\"".to_owned()),
        ("1.00", "1.00".to_owned()),
    ] {
        let mut out = Vec::new();
        json::number(&mut out, text.as_bytes());
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
