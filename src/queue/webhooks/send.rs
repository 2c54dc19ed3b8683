//! Sending deliveries, until they are taken.
//!
//! Signed as Standard Webhooks says (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), and for receivers of
//! Dispatch's own headers also as these: `X-Dispatch-Signature` is HMAC-SHA256 of the body in hexadecimal, `X-Dispatch-Signature-V2` that of
//! `<X-Dispatch-Timestamp>.<body>`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use serde_json::json;
use sha2::Sha256;

use super::{Attempt, Delivery, KEPT, State, Webhook, context, deliveries, webhooks};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::id::{DeliveryId, TenantId, WebhookId};
use crate::model::wait::hex;
use crate::net::{Deadlines, Request, Trust};
use crate::queue::Jobs;
use crate::secret::{Secret, Vault};
use crate::store::{Kept, due};

/// How much one node sends. The limits of tenants and addresses keep a slow one from delaying the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryLimits {
    /// Maximum number of deliveries that are sent at the same time.
    pub concurrent: usize,
    /// The maximum of one tenant.
    pub per_tenant: usize,
    /// The maximum to one address.
    pub per_address: usize,
    /// Time limit of one attempt.
    pub timeout: Duration,
}

impl Default for DeliveryLimits {
    fn default() -> Self {
        Self { concurrent: 256, per_tenant: 32, per_address: 4, timeout: Duration::from_secs(10) }
    }
}

/// What an address cannot be told now waits so long, so that others of its tenant come before.
const LATER: Duration = Duration::from_secs(1);
/// How much longer than an attempt may take nobody else takes up its delivery.
const HOLD_MARGIN: Duration = Duration::from_secs(5);
/// The waits after attempts that failed, in seconds.
const WAITS: [u64; 7] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400];
/// How often a delivery is tried.
pub const MOST_ATTEMPTS: usize = WAITS.len() + 1;
/// The metric of delivery attempts, by outcome.
pub const ATTEMPTS: &str = "dispatch_webhook_attempts_total";
pub const OUTCOMES: [&str; 3] = ["delivered", "retried", "given_up"];
/// What a secret's text begins with; base64 follows.
const PREFIX: &str = "whsec_";

/// What this node sends now.
#[derive(Debug, Default)]
pub(super) struct Sending {
    tenants: HashMap<TenantId, usize>,
    addresses: HashMap<WebhookId, usize>,
    all: usize,
}

impl Sending {
    fn begin(&mut self, tenant: TenantId, address: WebhookId, per_address: usize) -> bool {
        if self.addresses.get(&address).is_some_and(|count| *count >= per_address) {
            return false;
        }
        self.all += 1;
        *self.tenants.entry(tenant).or_default() += 1;
        *self.addresses.entry(address).or_default() += 1;
        true
    }

    fn end(&mut self, tenant: TenantId, address: WebhookId) {
        self.all -= 1;
        less(&mut self.tenants, tenant);
        less(&mut self.addresses, address);
    }

    /// Tenants that may send no more now.
    fn busy(&self, per_tenant: usize) -> Vec<TenantId> {
        self.tenants.iter().filter(|(_, count)| **count >= per_tenant).map(|(tenant, _)| *tenant).collect()
    }
}

fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// Sends what is due, each delivery in a task of its own, and waits for none.
pub(super) async fn look(jobs: &Jobs, vault: &Vault, sending: &Arc<Mutex<Sending>>) -> Result<()> {
    let DeliveryLimits { concurrent, per_tenant, per_address, .. } = jobs.delivery_limits();
    loop {
        let (busy, room) = {
            let now = sending.lock();
            (now.busy(per_tenant), concurrent.saturating_sub(now.all).min(per_tenant))
        };
        let now = jobs.clock().now();
        let limit = u32::try_from(room).unwrap_or(u32::MAX);
        let found = due::<Delivery>(&**jobs.store(), now, &busy, limit).await?;
        let more = room > 0 && found.len() == room;
        for (tenant, delivery) in found {
            let address = delivery.body.webhook;
            if !sending.lock().begin(tenant, address, per_address) {
                let later = Delivery { next_at: now.after(LATER), ..delivery.body.clone() };
                deliveries(jobs.store(), tenant).change(&delivery, later, now).await?;
                continue;
            }
            // Held before the next look, which must not find it again.
            let held = match hold(jobs, tenant, &delivery).await {
                Ok(Some(held)) => held,
                other => {
                    sending.lock().end(tenant, address);
                    other?;
                    continue;
                }
            };
            let (jobs, vault, sending) = (jobs.clone(), vault.clone(), sending.clone());
            tokio::spawn(async move {
                let id = held.id;
                if let Err(error) = take_up(&jobs, &vault, tenant, held).await {
                    tracing::warn!(delivery = %id, ?error, "a delivery could not be sent; it is tried again");
                }
                sending.lock().end(tenant, address);
            });
        }
        if !more {
            return Ok(());
        }
    }
}

/// Keeps other nodes from a delivery while it is sent. `None`: another node was quicker, or there is nothing to send.
async fn hold(jobs: &Jobs, tenant: TenantId, delivery: &Kept<Delivery>) -> Result<Option<Kept<Delivery>>> {
    let (all, now) = (deliveries(jobs.store(), tenant), jobs.clock().now());
    if delivery.body.state != State::Pending {
        all.delete(delivery.id).await?;
        return Ok(None);
    }
    let held = Delivery { next_at: now.after(jobs.delivery_limits().timeout.saturating_add(HOLD_MARGIN)), ..delivery.body.clone() };
    Ok(all.change(delivery, held, now).await?)
}

async fn take_up(jobs: &Jobs, vault: &Vault, tenant: TenantId, held: Kept<Delivery>) -> Result<()> {
    let all = deliveries(jobs.store(), tenant);
    let now = jobs.clock().now();
    let Some(webhook) = webhooks(jobs.store(), tenant).find(held.body.webhook).await? else {
        all.delete(held.id).await?;
        return Ok(());
    };
    let attempt = if webhook.body.enabled {
        failpoint::hit("webhook.send.before");
        attempt(jobs, vault, tenant, &webhook, &held).await
    } else {
        Attempt { at: now, status: None, error: Some("the webhook is disabled".into()) }
    };
    failpoint::hit("webhook.send.after");
    let gone = attempt.status == Some(410) || !webhook.body.enabled;
    let now = jobs.clock().now();
    let after = came(&held.body, attempt, gone, now, |most| jobs.clock().below(most));
    tell(&held, &after);
    all.change(&held, after, now).await?;
    if gone && webhook.body.enabled {
        let edit = |webhook: &mut Webhook| -> Result<(), Error> {
            webhook.enabled = false;
            webhook.disabled_because = Some("the address answered 410: it is gone".into());
            Ok(())
        };
        webhooks(jobs.store(), tenant).amend(webhook, now, edit).await?;
    }
    Ok(())
}

/// Counts the last attempt of a delivery, and logs a failed one.
fn tell(held: &Kept<Delivery>, after: &Delivery) {
    let [delivered, retried, given_up] = OUTCOMES;
    let outcome = match after.state {
        State::Delivered => delivered,
        State::Pending => retried,
        State::Failed => given_up,
    };
    metrics::counter!(ATTEMPTS, "outcome" => outcome).increment(1);
    if let Some(last) = after.attempts.last().filter(|_| outcome != delivered) {
        let (attempts, event) = (after.attempts.len(), after.event.as_str());
        tracing::info!(
            delivery = %held.id, webhook = %after.webhook, event, status = last.status, error = last.error, attempts, outcome,
            "a webhook delivery failed"
        );
    }
}

/// What an attempt makes of a delivery. `draw` gives a random number below its argument.
fn came(delivery: &Delivery, attempt: Attempt, gone: bool, now: Timestamp, draw: impl FnOnce(u64) -> u64) -> Delivery {
    let taken = attempt.status.is_some_and(|status| (200..300).contains(&status));
    let mut after = delivery.clone();
    after.attempts.push(attempt);
    let wait = WAITS.get(after.attempts.len() - 1).filter(|_| !taken && !gone);
    match wait {
        // A tenth more or less, so that what failed together does not come back together.
        Some(seconds) => {
            let tenth = seconds * 100;
            after.next_at = now.after(Duration::from_millis(seconds * 1_000 - tenth + draw(2 * tenth + 1)));
        }
        None => {
            after.state = if taken { State::Delivered } else { State::Failed };
            after.next_at = now.after(KEPT);
        }
    }
    after
}

async fn attempt(jobs: &Jobs, vault: &Vault, tenant: TenantId, webhook: &Kept<Webhook>, delivery: &Kept<Delivery>) -> Attempt {
    let at = jobs.clock().now();
    let limit = jobs.delivery_limits().timeout;
    let request = match request(vault, tenant, webhook, delivery, at) {
        Ok(request) => Request { deadlines: Deadlines { first_byte: limit, between_chunks: limit, total: limit }, ..request },
        Err(error) => return Attempt { at, status: None, error: Some(error.message().to_owned()) },
    };
    match jobs.parts().egress.send(request).await {
        Ok(answer) => Attempt { at, status: Some(answer.status.as_u16()), error: None },
        Err(error) => Attempt { at, status: None, error: Some(error.to_string()) },
    }
}

fn body(id: DeliveryId, delivery: &Delivery) -> Bytes {
    let event = delivery.event.as_str();
    let happened = delivery.happened_at;
    json!({ "id": id, "type": event, "event": event, "timestamp": happened, "createdAt": happened, "data": delivery.data })
        .to_string()
        .into()
}

fn request(vault: &Vault, tenant: TenantId, webhook: &Kept<Webhook>, delivery: &Kept<Delivery>, now: Timestamp) -> Result<Request> {
    let body = body(delivery.id, &delivery.body);
    let (id, millis) = (delivery.id.to_string(), now.as_millis());
    let seconds = (millis / 1_000).to_string();
    let (mut standard, mut plain, mut stamped) = (Vec::new(), String::new(), String::new());
    for secret in webhook.body.secrets.iter().filter(|secret| secret.until.is_none_or(|until| until > now)) {
        let sealed = STANDARD.decode(&secret.sealed).map_err(Error::internal)?;
        let opened = vault.open(&sealed, &context(tenant, webhook.id))?;
        let secret = Secret::new(String::from_utf8_lossy(&opened).into_owned());
        standard.push(format!("v1,{}", STANDARD.encode(mac(&key(&secret)?, &[id.as_bytes(), b".", seconds.as_bytes(), b".", &body])?)));
        if plain.is_empty() {
            plain = hex(&mac(secret.expose().as_bytes(), &[&body])?);
            stamped = hex(&mac(secret.expose().as_bytes(), &[millis.to_string().as_bytes(), b".", &body])?);
        }
    }
    let mut request = Request::new(http::Method::POST, webhook.body.url.clone(), Trust::Judged)
        .header("content-type", "application/json")
        .header("webhook-id", id.clone())
        .header("webhook-timestamp", seconds)
        .header("webhook-signature", standard.join(" "))
        .header("x-dispatch-event", delivery.body.event.as_str())
        .header("x-dispatch-delivery", id)
        .header("x-dispatch-timestamp", millis.to_string())
        .header("x-dispatch-signature", plain)
        .header("x-dispatch-signature-v2", stamped)
        .body(body);
    request.max_redirects = 0;
    Ok(request)
}

/// The bytes of a secret: what follows its prefix, in base64.
fn key(secret: &Secret) -> Result<Vec<u8>> {
    let text = secret.expose().strip_prefix(PREFIX).unwrap_or(secret.expose());
    STANDARD.decode(text).map_err(Error::internal)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(Error::internal)?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac.finalize().into_bytes().to_vec())
}

/// A fresh secret.
pub fn secret(clock: &crate::clock::Clock) -> Secret {
    let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
    clock.fill(bytes.as_mut_slice());
    Secret::new(format!("{PREFIX}{}", STANDARD.encode(bytes.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::webhooks::Kind;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn delivery() -> Delivery {
        Delivery {
            webhook: WebhookId::from_u128(1),
            event: Kind::Test,
            data: json!({}),
            happened_at: NOW,
            of: "x".into(),
            state: State::Pending,
            attempts: Vec::new(),
            next_at: NOW,
        }
    }

    fn answered(status: u16) -> Attempt {
        Attempt { at: NOW, status: Some(status), error: None }
    }

    #[test]
    fn a_delivery_is_tried_for_a_day_and_a_half_and_then_given_up() {
        let (mut delivery, mut waits) = (delivery(), Vec::new());
        while delivery.state == State::Pending {
            delivery = came(&delivery, answered(500), false, NOW, |most| most / 2);
            waits.push(delivery.next_at.since(NOW).as_secs());
        }
        assert_eq!(waits, [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, KEPT.as_secs()]);
        assert_eq!((delivery.state, delivery.attempts.len()), (State::Failed, MOST_ATTEMPTS));
    }

    #[test]
    fn what_is_taken_or_gone_is_over_at_once() {
        assert_eq!(came(&delivery(), answered(204), false, NOW, |_| 0).state, State::Delivered);
        assert_eq!(came(&delivery(), answered(410), true, NOW, |_| 0).state, State::Failed);
        assert_eq!(came(&delivery(), answered(302), false, NOW, |_| 0).state, State::Pending, "a redirect is no receipt");
    }
}
