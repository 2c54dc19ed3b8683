//! Readers: they come at any time, to any node, break off, and come back with the number of the last event they saw.

use std::sync::Arc;
use std::time::Duration;

use dispatch::id::RunId;
use dispatch::model::event::{EventRecord, Rest};

use super::world::World;

/// What one reader saw.
pub struct Seen {
    pub events: Vec<EventRecord>,
    /// How often it had to come back.
    pub returns: u32,
}

/// Follows a run to its end.
pub async fn follow(world: Arc<World>, run: RunId) -> Seen {
    let mut seen = Seen { events: Vec::new(), returns: 0 };
    if world.dice.percent(40) {
        world.pause(world.dice.duration(Duration::from_secs(7_200))).await;
    }
    loop {
        let node = world.node().await;
        let mut follower = node.feed.follow(world.tenant, run, seen.events.last().map(|event| event.seq));
        let patience = world.clock.sleep(world.dice.duration(Duration::from_secs(120)));
        tokio::pin!(patience);
        loop {
            let stretch = tokio::select! {
                biased;
                () = node.gate.died() => break,
                () = &mut patience => break,
                stretch = follower.next() => stretch,
            };
            let Ok(stretch) = stretch else { break };
            let kinds: Vec<&str> = stretch.events.iter().map(EventRecord::kind).collect();
            world.ledger.note(&format!("read {run} from {:?} {kinds:?} {:?}", stretch.events.first().map(|event| event.seq), stretch.rest));
            seen.events.extend(stretch.events);
            if stretch.rest == Rest::End {
                return seen;
            }
        }
        seen.returns += 1;
        world.pause(world.dice.duration(Duration::from_secs(600))).await;
    }
}
