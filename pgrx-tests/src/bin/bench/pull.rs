//! Pulls: how many a second, in pages, over related tables, and the memory that one takes.

use std::thread;
use std::time::Duration;

use super::Bench;
use super::measure::{Session, cost, in_turns, pin_thread};
use super::take::{NONE, take};

/// Sessions that pull at the same time.
const SESSIONS: usize = 8;

impl Bench<'_> {
    /// All of it.
    pub fn pull(&mut self) {
        let scale = self.scale();
        self.pulls_per_second();
        self.pages(scale);
        self.relational(scale);
        self.memory(scale);
    }

    /// A client for each of a thousand projects, for whom nothing has changed.
    fn pulls_per_second(&mut self) {
        self.table("items", 100_000);
        let shape = |project: usize| {
            format!(r#"{{"tables": {{"items": {{"where": "project = $1"}}}}, "params": [{project}]}}"#)
        };
        let sql = "SELECT cursor FROM sync_changes(NULL, $1::text::jsonb) WHERE op = 'commit'";
        let first = self.client.prepare(sql).expect("it can be prepared");
        let clients: Vec<[String; 2]> = (0..1_000)
            .map(|project| {
                let shape = shape(project);
                [self.client.query_one(&first, &[&shape]).expect("a cursor can be had").get(0), shape]
            })
            .collect();
        let mut sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::new(self.connect())).collect();
        let sql = "SELECT op, relation, key, value, cursor FROM sync_changes($1, $2::text::jsonb)";
        let mut prepared = [(sql, true), ("SELECT 1", false)].map(|(sql, pulls)| {
            let prepare = |session: &mut Session| session.client.prepare(sql).expect("it can be prepared");
            (sessions.iter_mut().map(prepare).collect::<Vec<_>>(), pulls)
        });
        let turns = if self.quick { 7 } else { 15 };
        let costs = in_turns(turns + 1, &mut prepared, |(statements, pulls)| {
            let pulls = *pulls;
            cost(&mut self.client, &mut sessions, clients.len(), |sessions| {
                thread::scope(|scope| {
                    let shares = clients.chunks(clients.len() / SESSIONS);
                    for (place, ((session, statement), share)) in
                        (0..).zip(sessions.iter_mut().zip(&*statements).zip(shares))
                    {
                        scope.spawn(move || {
                            session.pin(place);
                            pin_thread(place);
                            for client in share {
                                let params: &[&String] = &[&client[0], &client[1]];
                                let bytes = if pulls {
                                    take(session, statement, params)
                                } else {
                                    take(session, statement, NONE)
                                };
                                assert!(bytes > 0, "something comes");
                            }
                        });
                    }
                });
            })
        });
        // The first turn fills caches.
        let name = "nothing changed, against SELECT 1, 8 connections: pulls";
        self.report.rates("pull", name, &costs[0][1..], &costs[1][1..], Some(0.3));
    }

    fn memory(&mut self, scale: u32) {
        let rows = 5_000_000 / scale;
        self.table("five", rows);
        let mut session = Session::new(self.connect());
        let resident = session.private_memory();
        let before = resident();
        let sql = "SELECT count(*) FROM sync_changes(NULL, '{\"tables\":{\"five\":{}}}')";
        let pull = thread::spawn(move || session.client.batch_execute(sql).map(|()| session).expect("the pull runs"));
        let mut peak = before;
        while !pull.is_finished() {
            peak = peak.max(resident());
            thread::sleep(Duration::from_millis(20));
        }
        let name = format!("private memory, first pull of {rows} rows against before");
        self.report.ratio("pull", &name, "MB", &[peak], &[before], None);
    }
}
