//! A client of the stream beside those that pull: at each pull, and at the end, its copies must be the truth.

use std::time::{Duration, Instant};

use super::shape::Followed;
use super::{Count, Shared};
use crate::Cluster;
use crate::relay::{Failure, Relay};
use crate::rng::Rng;
use crate::slot::truth;

/// How many shapes one follower has.
const SHAPES: usize = 5;

/// How long the end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Follows until the run ends, and then until everything has come.
pub fn follow(shared: &Shared, primary: &Cluster<'_>, mut rng: Rng, actor: u64) {
    let shapes: Vec<(String, String)> =
        (0..SHAPES).map(|i| (format!("shape {i}"), Followed::new(&mut rng).shape)).collect();
    let mut client = primary.connect();
    let mut relay = match Relay::new(&mut client, &format!("relay_{actor}"), &shapes) {
        Ok(relay) => relay,
        Err(error) => return shared.fail(format!("a slot: {error:?}")),
    };
    let mut followed = Ok(());
    while shared.is_running() && followed.is_ok() {
        followed = step(&mut relay, &mut client, &shapes, &mut rng);
    }
    let ended = followed.and_then(|()| end(shared, &mut relay, &mut client, &shapes));
    match ended {
        Ok(()) => shared.count_stream(&relay.count),
        Err(Failure::Law(text)) => shared.fail(format!("stream {actor}: {text}")),
        Err(Failure::Server(error)) => shared.fail(format!("stream {actor}: {error:?}")),
    }
}

fn step(
    relay: &mut Relay,
    client: &mut postgres::Client,
    shapes: &[(String, String)],
    rng: &mut Rng,
) -> Result<(), Failure> {
    match rng.below(12) {
        0..=4 => drop(relay.stream(client, *rng.pick(&[1, 5, 1000]))?),
        5..=8 => relay.pull(client, &rng.pick(shapes).0)?,
        9 => relay.store(client)?,
        10 if rng.one_in(8) => relay.crash(),
        10 if rng.one_in(6) => relay.join_all(),
        11 if rng.one_in(4) => client.batch_execute("SELECT sync_heartbeat()")?,
        _ => {}
    }
    Ok(())
}

/// Nobody writes any more: what comes by the stream alone must lead to the truth.
fn end(
    shared: &Shared,
    relay: &mut Relay,
    client: &mut postgres::Client,
    shapes: &[(String, String)],
) -> Result<(), Failure> {
    let start = Instant::now();
    while shared.has_writers() || shapes.iter().any(|(id, _)| relay.held(id).is_none()) {
        if start.elapsed() > PATIENCE {
            return Err(Failure::Law(format!("a shape never joined: {:?}", relay.count)));
        }
        client.batch_execute("SELECT sync_heartbeat()")?;
        relay.stream(client, i32::MAX)?;
        for (id, _) in shapes {
            relay.pull(client, id)?;
        }
    }
    client.batch_execute("SELECT sync_heartbeat()")?;
    while relay.stream(client, i32::MAX)? > 0 {}
    for (id, shape) in shapes {
        let now = truth(client, shape);
        match relay.held(id) {
            Some(held) if *held == now => {}
            // The last transaction made it stale.
            None => relay.pull(client, id)?,
            Some(held) => return Err(Failure::Law(format!("{id} {shape} at the end: {held:?}\ntruth {now:?}"))),
        }
        shared.count(Count::Pulls);
    }
    Ok(())
}
