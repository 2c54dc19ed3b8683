//! Webhooks: addresses that are told what becomes of runs and jobs.
//!
//! A run's commit notes that it is to be told (see [`crate::store::Notices`]); from that note each address gets its deliveries, each once, and then the
//! note goes. A delivery is sent until it is taken, at longer and longer intervals, by whichever node takes it up first. So everything that was noted
//! arrives at least once, and the id of a delivery tells that it came before.
//!
//! Must not know: HTTP routes, who may make an address.

mod send;
mod tell;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Jobs;
use crate::clock::Timestamp;
use crate::engine::Parts;
use crate::id::{DeliveryId, TenantId, WebhookId};
use crate::secret::Vault;
use crate::store::{Collection, Document, SharedStore, StoreResult, due};

pub use send::{ATTEMPTS, DeliveryLimits, MOST_ATTEMPTS, OUTCOMES, secret};

/// How often it is looked for what is to be told.
const PAUSE: Duration = Duration::from_millis(500);
/// Addresses of all tenants that are told.
const MOST_ADDRESSES: u32 = 100_000;
/// How long a delivery that is over is shown.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What addresses are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "WebhookEvent")]
pub enum Kind {
    /// A run waits for a person, or for its caller.
    #[serde(rename = "run.paused")]
    RunPaused,
    #[serde(rename = "run.completed")]
    RunCompleted,
    #[serde(rename = "run.failed")]
    RunFailed,
    #[serde(rename = "run.cancelled")]
    RunCancelled,
    #[serde(rename = "job.completed")]
    JobCompleted,
    /// An attempt failed, and there will be another.
    #[serde(rename = "job.retrying")]
    JobRetrying,
    /// The last attempt failed: the job lies among the dead letters.
    #[serde(rename = "job.failed")]
    JobFailed,
    #[serde(rename = "job.cancelled")]
    JobCancelled,
    /// Somebody tries the address.
    #[serde(rename = "webhook.test")]
    Test,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RunPaused => "run.paused",
            Self::RunCompleted => "run.completed",
            Self::RunFailed => "run.failed",
            Self::RunCancelled => "run.cancelled",
            Self::JobCompleted => "job.completed",
            Self::JobRetrying => "job.retrying",
            Self::JobFailed => "job.failed",
            Self::JobCancelled => "job.cancelled",
            Self::Test => "webhook.test",
        }
    }
}

/// A secret that deliveries are signed with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SigningSecret {
    /// Sealed by the server, in base64.
    pub sealed: String,
    /// It signs until then; for good when absent.
    pub until: Option<Timestamp>,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    pub url: String,
    pub description: String,
    /// What it is told; everything when there is nothing.
    pub events: Vec<Kind>,
    pub enabled: bool,
    /// Why it is not, when it was not its owner who said so.
    pub disabled_because: Option<String>,
    /// The newest first.
    pub secrets: Vec<SigningSecret>,
}

impl Document for Webhook {
    const KIND: &'static str = "webhook";
    const TAKEN: &'static str = "the webhook";
    type Id = WebhookId;

    /// Always: so every node finds those of all tenants.
    fn due_at(&self) -> Option<Timestamp> {
        self.enabled.then_some(Timestamp::from_millis(0))
    }
}

impl Webhook {
    /// Whether it wants to be told of this.
    pub fn wants(&self, kind: Kind) -> bool {
        self.enabled && (kind == Kind::Test || self.events.is_empty() || self.events.contains(&kind))
    }
}

/// What a webhook's secret is bound to.
pub fn context(tenant: TenantId, id: WebhookId) -> String {
    format!("webhook/{tenant}/{id}")
}

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WebhookDeliveryState")]
pub enum State {
    /// It is sent, or waits for the next attempt.
    Pending,
    Delivered,
    /// It was given up.
    Failed,
}

/// One attempt of a delivery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "WebhookAttempt")]
pub struct Attempt {
    pub at: Timestamp,
    /// What the address answered; absent when there was no answer.
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// Something that an address is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    pub webhook: WebhookId,
    pub event: Kind,
    /// The body that is sent, but for its id.
    pub data: Value,
    pub happened_at: Timestamp,
    /// What it is of: the address is told of each thing once.
    pub of: String,
    pub state: State,
    /// Since it was last asked for.
    pub attempts: Vec<Attempt>,
    /// When it is sent next, or forgotten.
    pub next_at: Timestamp,
}

impl Document for Delivery {
    const KIND: &'static str = "webhook_delivery";
    const TAKEN: &'static str = "the delivery";
    type Id = DeliveryId;

    fn place(&self) -> Option<String> {
        Some(format!("{}/{}", self.webhook, self.of))
    }

    fn parent(&self) -> Option<String> {
        Some(self.webhook.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.next_at)
    }
}

/// Whether deliveries to an address may go out, as far as that can be told before its host's name is resolved; if not, why.
pub fn would_reach(parts: &Parts, url: &str) -> Result<(), String> {
    parts.egress.would_reach(url).map_err(|refused| refused.to_string())
}

pub fn webhooks(store: &SharedStore, tenant: TenantId) -> Collection<'_, Webhook> {
    Collection::of(&**store, tenant)
}

pub fn deliveries(store: &SharedStore, tenant: TenantId) -> Collection<'_, Delivery> {
    Collection::of(&**store, tenant)
}

/// A delivery that begins now.
pub async fn begin(
    jobs: &Jobs,
    tenant: TenantId,
    webhook: WebhookId,
    event: Kind,
    data: Value,
    of: String,
    happened_at: Timestamp,
) -> StoreResult<Option<DeliveryId>> {
    let (clock, id) = (jobs.clock(), DeliveryId::new(jobs.clock()));
    let now = clock.now();
    let delivery = Delivery { webhook, event, data, happened_at, of, state: State::Pending, attempts: Vec::new(), next_at: now };
    match deliveries(jobs.store(), tenant).create(id, delivery, now).await {
        Ok(_) => Ok(Some(id)),
        // It was begun before.
        Err(crate::store::StoreError::Exists(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells what is to be told, for ever.
pub async fn beat(jobs: Jobs, vault: Vault) {
    let clock = jobs.clock().clone();
    let sending = Arc::default();
    loop {
        if let Err(error) = listen(jobs.parts()).await {
            tracing::warn!(%error, "it cannot be looked for webhooks");
        }
        if let Err(error) = tell::look(&jobs).await {
            tracing::warn!(?error, "what happened cannot be told yet");
        }
        if let Err(error) = send::look(&jobs, &vault, &sending).await {
            tracing::warn!(?error, "it cannot be looked for deliveries");
        }
        clock.sleep(PAUSE).await;
    }
}

/// Notes which tenants are told anything. Before the first run is taken up, too.
pub async fn listen(parts: &Parts) -> StoreResult<()> {
    let found = due::<Webhook>(&*parts.store, parts.clock.now(), &[], MOST_ADDRESSES).await?;
    parts.listeners.set(found.into_iter().map(|(tenant, _)| tenant).collect::<HashSet<_>>());
    Ok(())
}
