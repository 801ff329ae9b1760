//! Statements that write many rows.

use std::io::{Read, Write};

use super::Bench;
use super::measure::{Cost, Session, cost, in_turns};
use super::report::{Against, Goals};
use super::write::{ROWS, TODAY, UNTRACKED, WAYS};

/// What each turn does: its name, what is not measured, what is, and its goal against an untracked table.
const STATEMENTS: [(&str, &str, &str, f64); 4] = [
    ("INSERT … SELECT", "TRUNCATE $t", "INSERT INTO $t ($columns) SELECT $columns FROM source", 1.3),
    ("UPDATE", "VACUUM $t", "UPDATE $t SET body = upper(body)", 1.6),
    ("DELETE", "VACUUM $t", "DELETE FROM $t", 1.6),
    ("COPY", "TRUNCATE $t", "COPY $t ($columns) FROM STDIN", 1.3),
];

impl Bench<'_> {
    /// Many rows in a statement.
    pub fn bulk(&mut self) {
        let rows: usize = if self.quick { 25_000 } else { 100_000 };
        let turns = if self.quick { 5 } else { 9 };
        let load = ROWS.replace("$n", &rows.to_string());
        let columns = "id, project, owner, state, title, body";
        let sql = format!("CREATE TABLE source ({columns}) AS {load}");
        self.client.batch_execute(&sql).expect("a table can be made");
        let mut text = Vec::new();
        let mut reader = self.client.copy_out("COPY source TO STDOUT").expect("a table can be copied");
        reader.read_to_end(&mut text).expect("a table can be copied");
        drop(reader);
        let mut subjects: Vec<(String, [Session; 1])> = (0..)
            .zip(WAYS)
            .map(|(n, way)| {
                let table = format!("bulk_{n}");
                self.make(&table, way, "", 0);
                (table, [self.lazy_session()])
            })
            .collect();
        self.client.batch_execute("CHECKPOINT").expect("a checkpoint");
        let costs = in_turns(turns, &mut subjects, |(table, session)| {
            STATEMENTS.map(|(_, before, sql, _)| {
                let fill = |sql: &str| sql.replace("$t", table).replace("$columns", columns);
                session[0].client.batch_execute(&fill(before)).expect("a table can be prepared");
                let sql = fill(sql);
                cost(&mut self.client, session, rows, |session| run(&mut session[0], &sql, &text))
            })
        });
        for (n, (name, _, _, goal)) in STATEMENTS.into_iter().enumerate() {
            let of = |way: usize| costs[way].iter().map(|turn| turn[n]).collect::<Vec<Cost>>();
            let name = format!("{name} of {rows} rows");
            let goals = Goals { wall: None, cpu: Some(goal), wal: None };
            self.report.costs("write", &name, Against(UNTRACKED.name), &of(2), &of(0), goals);
            self.report.costs("write", &name, Against(TODAY.name), &of(2), &of(1), Goals::default());
        }
    }
}

fn run(session: &mut Session, sql: &str, text: &[u8]) {
    if !sql.starts_with("COPY") {
        session.client.batch_execute(sql).expect("many rows can be written");
        return;
    }
    let mut writer = session.client.copy_in(sql).expect("rows can be copied in");
    writer.write_all(text).expect("rows can be copied in");
    writer.finish().expect("rows can be copied in");
}
