//! The beat: looks for what is due and does it, for ever. Schedules fire, batches and evals go on.
//!
//! Every server beats. What is done has keys of its own and goes on by compare-and-set, so that servers that see the same thing at the same time do
//! it once.

use std::fmt::Display;
use std::time::Duration;

use super::batches::{self, Batch};
use super::evals::Eval;
use super::schedules::{self, Schedule};
use crate::error::Result;
use crate::http::AppState;
use crate::id::TenantId;
use crate::store::{Document, Kept, due};

/// How often it is looked for what is due: about as late a slot may fire.
const PAUSE: Duration = Duration::from_millis(500);
/// Things of one look.
const MOST: u32 = 100;

/// Does what is due, for ever.
pub async fn beat(state: AppState) {
    loop {
        each(&state, |tenant, kept: Kept<Schedule>| schedules::tick(&state, tenant, kept)).await;
        each(&state, |tenant, kept: Kept<Batch>| batches::tick(&state, tenant, kept)).await;
        each(&state, |tenant, kept: Kept<Eval>| batches::tick(&state, tenant, kept)).await;
        state.clock.sleep(PAUSE).await;
    }
}

async fn each<D: Document, F: Future<Output = Result<()>>>(state: &AppState, tick: impl Fn(TenantId, Kept<D>) -> F)
where
    D::Id: Display,
{
    match due::<D>(&*state.store, state.clock.now(), &[], MOST).await {
        Ok(found) => {
            for (tenant, kept) in found {
                let id = kept.id;
                if let Err(error) = tick(tenant, kept).await {
                    tracing::warn!(%id, ?error, "what was due could not be done; it is tried again");
                }
            }
        }
        Err(error) => tracing::warn!(kind = D::KIND, %error, "it cannot be looked for what is due"),
    }
}
