//! A client of the stream beside those that pull: at each pull, and at the end, its copies must be the truth.

use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Error};
use syncline_delta::snapshot::Snapshot;

use super::shape::Followed;
use super::{Count, Rules, Shared};
use crate::Cluster;
use crate::cluster;
use crate::relay::{Failure, Relay};
use crate::replication::{Broken, Replication};
use crate::rng::Rng;
use crate::slot::truth;

/// How many shapes one follower has.
const SHAPES: usize = 5;

/// How many others join while it follows.
const LATER: usize = 3;

/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A heartbeat is not to hang where others do.
const PREPARE: &str = "SET synchronous_commit = local";

/// The server ends, or starts, or another process has the slot still: all pass.
const PASSING: [&str; 4] = ["57P01", "57P02", "57P03", "55006"];

/// A follower, by one connection for SQL and, where servers are killed, one for replication.
struct Stream<'a> {
    shared: &'a Shared,
    primary: &'a Cluster<'a>,
    client: Client,
    replication: Option<Replication>,
    relay: Relay,
    shapes: Vec<(String, String)>,
    slot: String,
}

/// Follows until the run ends, and then until everything has come.
pub fn follow(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng, actor: u64) {
    let shapes: Vec<(String, String)> =
        (0..SHAPES).map(|i| (format!("shape {i}"), Followed::new(&mut rng).shape)).collect();
    let Some(client) = shared.session(primary, PREPARE) else { return };
    let slot = format!("relay_{actor}");
    let relay = Relay::joined(&slot, &shapes, Snapshot::nothing());
    let mut stream = Stream { shared, primary, client, replication: None, relay, shapes, slot };
    let followed = match shared.rules {
        Rules::Kills => stream.through_kills(&mut rng),
        _ => stream.along(&mut rng),
    };
    match followed.and_then(|()| stream.end()) {
        Ok(()) => shared.count_stream(&stream.relay.count),
        Err(Failure::Law(text)) => shared.fail(format!("stream {actor}: {text}")),
        Err(failure) => shared.fail(format!("stream {actor}: {failure:?}")),
    }
}

impl Stream<'_> {
    fn along(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        self.relay.resume(&mut self.client)?;
        self.relay.store(&mut self.client)?;
        while self.shared.is_running() {
            match rng.below(12) {
                0..=2 => drop(self.relay.stream(&mut self.client, *rng.pick(&[1, 5, 1000]))?),
                // Without the heartbeat it would often be pruned already what the position has not seen.
                3 | 4 => {
                    self.heartbeat()?;
                    self.relay.stream(&mut self.client, 1000)?;
                    self.check(rng)?;
                }
                5..=8 => self.pull(rng)?,
                9 => self.relay.store(&mut self.client)?,
                10 if rng.one_in(8) => self.relay.crash(),
                10 if rng.one_in(6) => self.relay.join_all(),
                11 if rng.one_in(4) => self.client.batch_execute("SELECT sync_heartbeat()")?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The same by a replication connection, while servers, and processes of theirs, are killed.
    fn through_kills(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        while self.shared.is_running() {
            match self.step(rng) {
                Err(Failure::Server(error)) if self.shared.is_loss(&error) => {
                    self.replication = None;
                    match self.shared.session(self.primary, PREPARE) {
                        Some(client) => self.client = client,
                        None => return Ok(()),
                    }
                }
                Err(Failure::Stream(Broken::Refused(state, _))) if PASSING.contains(&&*state) => {
                    self.replication = None;
                }
                Err(Failure::Stream(Broken::Lost(_))) => self.replication = None,
                other => other?,
            }
        }
        self.replication = None;
        Ok(())
    }

    fn step(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let Some(replication) = &mut self.replication else {
            self.relay.resume(&mut self.client)?;
            self.replication = Some(self.relay.connect(self.primary)?);
            return Ok(());
        };
        match rng.below(24) {
            0..=7 => {
                self.relay.read(replication, Duration::from_millis(*rng.pick(&[1, 1, 10])))?;
                self.check(rng)?;
            }
            8..=15 => self.pull(rng)?,
            16..=18 => {
                if let Some(lsn) = self.relay.save() {
                    replication.acknowledge(lsn)?;
                }
            }
            19 if rng.one_in(3) => {
                self.replication = None;
                self.relay.crash();
            }
            20 if rng.one_in(4) => self.replication = None,
            21 if rng.one_in(20) => cluster::kill_9(&[replication.pid()]),
            21 if rng.one_in(6) => self.drop_slot()?,
            22 if rng.one_in(6) => self.add(rng),
            23 if !self.shared.silent => self.client.batch_execute("SELECT sync_heartbeat()")?,
            _ => {}
        }
        Ok(())
    }

    /// A shape that is held, or one that joins.
    fn any(&self, rng: &mut Rng, held: bool) -> Option<String> {
        let ids = self.shapes.iter().map(|(id, _)| id);
        let these: Vec<&String> = ids.filter(|id| self.relay.held(id).is_some() == held).collect();
        (!these.is_empty()).then(|| (*rng.pick(&these)).clone())
    }

    fn pull(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let before = self.relay.count.pulls;
        let Some(id) = self.any(rng, false) else { return Ok(()) };
        self.relay.pull(&mut self.client, &id)?;
        if self.relay.count.pulls > before {
            self.shared.count(Count::Pulls);
        }
        Ok(())
    }

    fn check(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let before = self.relay.count.checks;
        let Some(id) = self.any(rng, true) else { return Ok(()) };
        self.relay.check(&mut self.client, &id)?;
        if self.relay.count.checks > before {
            self.shared.count(Count::Pulls);
            self.shared.count(Count::Checks);
        }
        Ok(())
    }

    /// Somebody drops the slot, and mostly makes it again: what lies between is in no stream.
    fn drop_slot(&mut self) -> Result<(), Failure> {
        self.replication = None;
        let sql = "SELECT pg_drop_replication_slot(slot_name), pg_create_logical_replication_slot(slot_name, 'syncline') \
                   FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
        match self.client.execute(sql, &[&self.slot]) {
            // A walsender that has just lost its client takes a moment to go.
            Err(error) if is_passing(&error) => Ok(()),
            other => Ok(other.map(|_| ())?),
        }
    }

    /// A client with a shape of its own comes to what runs.
    fn add(&mut self, rng: &mut Rng) {
        if self.shapes.len() < SHAPES + LATER {
            let (id, shape) = (format!("shape {}", self.shapes.len()), Followed::new(rng).shape);
            self.relay.add(&id, &shape);
            self.shapes.push((id, shape));
            self.replication = None;
        }
    }

    /// Nobody writes any more: what comes by the stream alone must lead to the truth.
    fn end(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        self.relay.resume(&mut self.client)?;
        while self.shared.has_writers() || self.shapes.iter().any(|(id, _)| self.relay.held(id).is_none()) {
            if start.elapsed() > PATIENCE {
                return Err(Failure::Law(format!("a shape never joined: {:?}", self.relay.count)));
            }
            self.heartbeat()?;
            self.rest()?;
            for (id, _) in &self.shapes {
                self.relay.pull(&mut self.client, id)?;
            }
        }
        self.heartbeat()?;
        while self.rest()? > 0 {}
        for (id, shape) in &self.shapes {
            let now = truth(&mut self.client, shape);
            match self.relay.held(id) {
                Some(held) if *held == now => {}
                // The last transaction made it stale.
                None => self.relay.pull(&mut self.client, id)?,
                Some(held) => return Err(Failure::Law(format!("{id} {shape} at the end: {held:?}\ntruth {now:?}"))),
            }
            let sql = "SELECT rows, hash FROM sync_digest($1::text::jsonb)";
            let says = self.client.query_one(sql, &[shape])?;
            let (says, own) = (Some((says.get::<_, i64>(0), says.get::<_, String>(1))), self.relay.digest(id));
            if says != own {
                return Err(Failure::Law(format!("{id} {shape}: sync_digest says {says:?}, the copy is {own:?}")));
            }
            self.shared.count(Count::Pulls);
        }
        Ok(())
    }

    fn heartbeat(&mut self) -> Result<(), Failure> {
        if !self.shared.silent {
            self.client.batch_execute("SELECT sync_heartbeat()")?;
        }
        Ok(())
    }

    /// Reads all that has come, which only SQL can tell; how many transactions there were.
    fn rest(&mut self) -> Result<usize, Failure> {
        let start = Instant::now();
        loop {
            match self.relay.stream(&mut self.client, i32::MAX) {
                Err(Failure::Server(error)) if is_passing(&error) && start.elapsed() < PATIENCE => {
                    thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }
}

fn is_passing(error: &Error) -> bool {
    error.code().is_some_and(|code| PASSING.contains(&code.code()))
}
