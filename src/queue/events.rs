//! What published events begin: jobs of the flows that they trigger.
//!
//! A job of an event has a key of its own, and an event is noted as told by compare-and-set: however many nodes see it, and wherever they die, each flow
//! begins once.
//!
//! Must not know: HTTP, who published, which flow a name means.

use std::time::Duration;

use serde_json::Value;

use super::Jobs;
use crate::engine::CachedAnswer;
use crate::engine::bus::{Bus, Published, Waiter};
use crate::error::Result;
use crate::id::{EventId, JobId, TenantId};
use crate::model::job::Job;
use crate::store::{Collection, Enqueued, Kept, due, forget};

/// How often it is looked for events that flows published.
const PAUSE: Duration = Duration::from_millis(500);
/// Events of one look.
const MOST: u32 = 100;

/// What an event began.
#[derive(Debug, Clone, PartialEq)]
pub struct Begun {
    /// What each job does.
    pub names: Vec<String>,
    pub jobs: Vec<JobId>,
}

impl Jobs {
    /// Publishes an event: one run that waits for it takes it, and what it triggers begins; all durable when it returns. The same id again is the same
    /// event.
    pub async fn publish(&self, tenant: TenantId, id: EventId, name: &str, payload: Value) -> Result<Begun> {
        let event = Bus::new(self.parts(), tenant).publish(id, name, payload).await?;
        self.tell(tenant, &event).await
    }

    /// Begins what an event triggers, if that was not done yet.
    async fn tell(&self, tenant: TenantId, event: &Kept<Published>) -> Result<Begun> {
        let mut begun = Begun { names: Vec::new(), jobs: Vec::new() };
        for (name, placed) in self.flows().triggered(tenant, &event.body.name, &event.body.payload).await? {
            let job = Job::new(JobId::new(self.clock()), tenant, placed, self.clock().now());
            let id = job.id;
            let key = format!("event/{}/{name}", event.id);
            begun.jobs.push(match self.enqueue(job, Some(key)).await? {
                Enqueued::New => id,
                Enqueued::Before(before) => before,
            });
            begun.names.push(name);
        }
        if !event.body.told {
            Bus::new(self.parts(), tenant).told(event).await?;
        }
        Ok(begun)
    }
}

/// Tells events that flows published, and forgets what nobody took, for ever.
pub async fn beat(jobs: Jobs) {
    let clock = jobs.clock().clone();
    loop {
        if let Err(error) = look(&jobs).await {
            tracing::warn!(?error, "it cannot be looked for events");
        }
        clock.sleep(PAUSE).await;
    }
}

async fn look(jobs: &Jobs) -> Result<()> {
    let (store, now) = (jobs.store(), jobs.clock().now());
    for (tenant, event) in due::<Published>(&**store, now, &[], MOST).await? {
        if event.body.told {
            Collection::<Published>::of(&**store, tenant).delete(event.id).await?;
            continue;
        }
        let id = event.id;
        // Whoever published it may have died before the waiters heard of it.
        let told = async {
            Bus::new(jobs.parts(), tenant).wake(&event.body.name).await?;
            jobs.tell(tenant, &event).await
        };
        if let Err(error) = told.await {
            tracing::warn!(event = %id, ?error, "what an event triggers could not begin; it is tried again");
        }
    }
    forget::<Waiter>(&**store, now).await?;
    forget::<CachedAnswer>(&**store, now).await?;
    Ok(())
}
