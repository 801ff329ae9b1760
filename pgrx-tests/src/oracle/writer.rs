//! A writer: transactions of a few statements on few keys, ended in every way there is.

use std::thread;
use std::time::Duration;

use postgres::Error;

use super::{Count, Rules, Shared};
use crate::Cluster;
use crate::rng::Rng;

/// Writes until the run ends. What fails (conflicts, deadlocks, unique keys) is rolled back: the users' everyday.
pub fn write(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng, actor: u64) {
    let prepare = if shared.rules == Rules::Load { "" } else { "SET lock_timeout = '300 ms'" };
    // Each one flushes what others wait to lose.
    let prepared = if shared.rules == Rules::Kills { 80 } else { 8 };
    let mut number = 0;
    let Some(mut client) = shared.session(primary, prepare) else { return };
    while shared.is_running() {
        number += 1;
        let level = rng.pick(&["READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]);
        let mut written = client.batch_execute(&format!("BEGIN ISOLATION LEVEL {level}"));
        for sql in transaction(shared, &mut rng) {
            // One message each: a READ COMMITTED transaction sees others' commits in between.
            written = written.and_then(|()| client.batch_execute(&sql));
        }
        if rng.one_in(6) {
            let longest = if rng.one_in(10) { 700 } else { 30 };
            thread::sleep(Duration::from_millis(u64::from(rng.below(longest))));
        }
        let ended = if written.is_err() {
            client.batch_execute("ROLLBACK")
        } else if rng.one_in(prepared) {
            let name = format!("w{actor}_{number}");
            let done = client.batch_execute(&format!("PREPARE TRANSACTION '{name}'"));
            thread::sleep(Duration::from_millis(u64::from(rng.below(60))));
            let verb = if rng.one_in(4) { "ROLLBACK" } else { "COMMIT" };
            done.and_then(|()| client.batch_execute(&format!("{verb} PREPARED '{name}'")))
        } else {
            client.batch_execute(if rng.one_in(7) { "ROLLBACK" } else { "COMMIT" })
        };
        if let Some(error) = [&written, &ended].into_iter().find_map(|done| undocumented(shared, done)) {
            return shared.fail(format!("a writer: {error:?}"));
        }
        match ended {
            Ok(()) if written.is_ok() => shared.count(Count::Writes),
            Err(error) if shared.is_loss(&error) => match shared.session(primary, prepare) {
                Some(session) => client = session,
                None => return,
            },
            Err(error) if client.is_closed() => return shared.fail(format!("a writer lost its session: {error:?}")),
            _ => {}
        }
    }
}

/// The statements of one transaction.
fn transaction(shared: &Shared, rng: &mut Rng) -> Vec<String> {
    match shared.rules {
        Rules::Load => ordered(rng),
        _ => (0..=rng.below(4)).map(|_| statement(rng)).collect(),
    }
}

/// What a writer under load is not told: serialization failures and taken keys are its own.
fn undocumented<'a>(shared: &Shared, done: &'a Result<(), Error>) -> Option<&'a Error> {
    let error = done.as_ref().err()?;
    let known = error.code().is_some_and(|code| ["40001", "23505"].contains(&code.code()));
    (shared.rules == Rules::Load && !known).then_some(error)
}

/// Statements that take their rows in one order, by table and key, as all of them do: no circle can come of it.
fn ordered(rng: &mut Rng) -> Vec<String> {
    let mut places: Vec<(u32, u32)> = (0..=rng.below(4)).map(|_| (rng.below(6).min(3), rng.below(40))).collect();
    places.sort_unstable();
    places.dedup();
    let last = places.len() - 1;
    let mut statements = Vec::new();
    for (n, (table, id)) in places.into_iter().enumerate() {
        let state = rng.pick(&["'open'", "'todo'", "'done'", "NULL"]);
        let (project, other, one) = (rng.below(8), rng.below(4), rng.below(6));
        statements.push(match (table, one) {
            (0, 0) => format!("DELETE FROM projects WHERE id = {}", id / 5),
            (0, 1) => format!("INSERT INTO projects VALUES ({}, {project}, {other}) ON CONFLICT DO NOTHING", id / 5),
            (0, 2) => format!("UPDATE projects SET parent = {project} WHERE id = {}", id / 5),
            (0, _) => format!("UPDATE projects SET team = {other}, is_open = NOT is_open WHERE id = {}", id / 5),
            (1, 0) => format!("DELETE FROM members WHERE id = {id}"),
            (1, 1 | 2) => format!("INSERT INTO members VALUES ({id}, {project}, {other}) ON CONFLICT DO NOTHING"),
            (1, _) => format!("UPDATE members SET project_id = {project}, who = {other} WHERE id = {id}"),
            (2, 0) => format!("DELETE FROM items WHERE id = {id}"),
            (2, 1 | 2) => {
                format!("INSERT INTO items VALUES ({id}, {}, {state}, 'n') ON CONFLICT DO NOTHING", other % 3)
            }
            (2, 3) => format!("UPDATE items SET region = 2, note = 'moved' WHERE id = {id} AND region = {}", other % 3),
            (2, _) => format!("UPDATE items SET state = {state} WHERE id = {id}"),
            // The new key comes behind all that this transaction has taken.
            (_, 0) if n == last => format!("UPDATE issues SET id = {} WHERE id = {id}", id + 1 + other),
            (_, 0 | 1) => format!("DELETE FROM issues WHERE id = {id}"),
            (_, 2 | 3) => format!(
                "INSERT INTO issues VALUES ({id}, {project}, {state}, 'new') ON CONFLICT (id) DO UPDATE SET state = {state}"
            ),
            (_, 4) => format!("UPDATE issues SET project_id = {project} WHERE id = {id}"),
            _ => format!("UPDATE issues SET title = 't{other}' WHERE id = {id}"),
        });
    }
    statements
}

/// One statement that writes.
pub fn statement(rng: &mut Rng) -> String {
    let (id, other) = (rng.below(40), rng.below(40));
    let state = rng.pick(&["'open'", "'todo'", "'done'", "NULL"]);
    let (item, region) = (rng.below(20), rng.below(3));
    let (parent, team, member, is_open) = (
        *rng.pick(&["NULL", "0", "1", "3", "5"]),
        *rng.pick(&["NULL", "0", "1", "2"]),
        rng.below(14),
        *rng.pick(&["true", "false"]),
    );
    let project = if rng.one_in(12) { "NULL".to_owned() } else { rng.below(8).to_string() };
    if rng.one_in(4) {
        let (number, who) = (rng.below(8), rng.below(4));
        return match rng.below(11) {
            0 => format!("UPDATE projects SET team = {team} WHERE id = {number}"),
            1 => format!("UPDATE projects SET is_open = {is_open} WHERE id BETWEEN {number} AND {number} + 2"),
            2 => format!("UPDATE projects SET parent = {parent} WHERE id = {number}"),
            3 => format!("UPDATE projects SET title = 't{other}' WHERE id = {number}"),
            4 => format!("DELETE FROM projects WHERE id = {number}"),
            5 => format!("INSERT INTO projects VALUES ({number}, {parent}, {team}, {is_open}) ON CONFLICT DO NOTHING"),
            6 => format!("UPDATE projects SET id = {} WHERE id = {number}", rng.below(8)),
            7 => format!("UPDATE members SET project_id = {number} WHERE id = {member}"),
            8 => format!("UPDATE members SET who = {who} WHERE id = {member}"),
            9 => format!("DELETE FROM members WHERE id = {member}"),
            _ => format!("INSERT INTO members VALUES ({member}, {number}, {who}) ON CONFLICT DO NOTHING"),
        };
    }
    match rng.below(1000) {
        0..=129 => format!("INSERT INTO issues VALUES ({id}, {project}, {state}, 'new') ON CONFLICT DO NOTHING"),
        130..=139 => format!("INSERT INTO issues VALUES ({id}, {project}, {state}, 'new')"),
        140..=239 => format!("UPDATE issues SET title = 't{other}' WHERE id = {id}"),
        240..=349 => format!("UPDATE issues SET project_id = {project} WHERE id = {id}"),
        350..=429 => format!("UPDATE issues SET state = {state} WHERE id BETWEEN {id} AND {id} + 3"),
        430..=519 => format!("DELETE FROM issues WHERE id = {id}"),
        520..=589 => format!("UPDATE issues SET id = {other} WHERE id = {id}"),
        590..=609 => format!("UPDATE issues SET id = {other}, state = {state} WHERE id = {id}"),
        610..=659 => {
            format!("DELETE FROM issues WHERE id = {id}; INSERT INTO issues VALUES ({id}, {project}, {state}, 're')")
        }
        660..=689 => format!(
            "SAVEPOINT s; UPDATE issues SET project_id = {project} WHERE id = {id}; ROLLBACK TO s; \
             UPDATE issues SET state = {state} WHERE id = {id}"
        ),
        690..=719 => format!(
            "SAVEPOINT s; DELETE FROM issues WHERE id = {id}; SAVEPOINT u; \
             INSERT INTO issues VALUES ({other}, {project}, {state}, 'sub') ON CONFLICT DO NOTHING; \
             {}; RELEASE s",
            rng.pick(&["ROLLBACK TO u", "RELEASE u"])
        ),
        720..=759 => format!(
            "INSERT INTO issues VALUES ({id}, {project}, {state}, 'up') \
             ON CONFLICT (id) DO UPDATE SET project_id = excluded.project_id, title = 'up'"
        ),
        760..=829 => format!("INSERT INTO items VALUES ({item}, {region}, {state}, 'n') ON CONFLICT DO NOTHING"),
        830..=889 => format!("UPDATE items SET state = {state}, region = {region} WHERE id = {item}"),
        890..=939 => format!("DELETE FROM items WHERE id = {item} AND region = {region}"),
        940..=984 => format!("UPDATE items SET note = 'm{other}' WHERE id = {item}"),
        985..=986 => {
            (*rng.pick(&["TRUNCATE issues", "TRUNCATE items_1", "TRUNCATE items_2a", "TRUNCATE items"])).into()
        }
        // Outside every shape's list of columns; a table holds 1,600.
        987 if rng.one_in(2) => {
            format!("ALTER TABLE issues ADD COLUMN c{} int DEFAULT {other}", rng.below(500))
        }
        _ => "SELECT count(*) FROM issues".to_owned(),
    }
}
