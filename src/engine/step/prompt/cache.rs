//! The exact cache of answers: a prompt that opts in is answered from what the same request was answered before, within a time.
//!
//! The key is the tenant, the models of the chain and everything that the model is asked; answers with tool calls, and answers that were cut or
//! withheld, are not kept. A cached answer costs nothing and is shown like any other.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::engine::context::StepContext;
use crate::id::CachedAnswerId;
use crate::provider::{ChatRequest, Completion, Cost, Finish};
use crate::store::{Collection, Document};

/// Largest answer that is kept, in bytes.
const MAX_ANSWER: usize = 256 * 1024;
/// Longest time that an answer is kept.
pub const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How long a prompt's answers are kept.
#[derive(Debug, Clone, Copy, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheConfig {
    /// Seconds; 1 to 2,592,000 (30 days).
    #[schemars(range(min = 1, max = 2_592_000))]
    pub ttl_seconds: u64,
}

/// An answer that was given before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CachedAnswer {
    key: String,
    expires_at: Timestamp,
    completion: Completion,
}

impl Document for CachedAnswer {
    const KIND: &'static str = "cached_answer";
    type Id = CachedAnswerId;

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.expires_at)
    }
}

/// The place of a request's answer among the tenant's.
pub struct CacheKey(String);

impl CacheKey {
    pub fn of(models: &[String], request: &ChatRequest) -> Self {
        // The idempotency key is another on each run; everything else decides the answer.
        let request = ChatRequest { idempotency_key: None, ..request.clone() };
        let asked = serde_json::to_vec(&(models, &request)).unwrap_or_default();
        let digest = Sha256::digest(&asked);
        Self(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The document's id: the first half of the digest.
    fn id(&self) -> CachedAnswerId {
        let digits = self.0.get(..32).unwrap_or_default();
        CachedAnswerId::from_u128(u128::from_str_radix(digits, 16).unwrap_or_default())
    }
}

/// The answer that was kept for a request, if there is one. A store that cannot be read means none.
pub async fn find(context: &StepContext<'_>, key: &CacheKey) -> Option<Completion> {
    let answers = Collection::<CachedAnswer>::of(&*context.parts().store, context.run.tenant);
    let found = match answers.find(key.id()).await {
        Ok(found) => found?.body,
        Err(error) => {
            tracing::warn!(run = %context.run.run, %error, "failed to read a cached answer; the model is asked");
            return None;
        }
    };
    if found.key != key.0 || found.expires_at <= context.now() {
        return None;
    }
    Some(Completion { cost: Cost::default(), attempts: Vec::new(), ..found.completion })
}

/// Keeps an answer for so long. A failure costs only the next call.
pub async fn keep(context: &StepContext<'_>, key: &CacheKey, ttl: Duration, completion: &Completion) {
    let keeps = completion.finish == Finish::EndTurn && completion.tool_calls.is_empty() && completion.text.len() <= MAX_ANSWER;
    if !keeps {
        return;
    }
    let answers = Collection::<CachedAnswer>::of(&*context.parts().store, context.run.tenant);
    let now = context.now();
    let body = CachedAnswer { key: key.0.clone(), expires_at: now.after(ttl), completion: completion.clone() };
    let kept = async {
        match answers.find(key.id()).await? {
            Some(old) => answers.change(&old, body, now).await.map(|_| ()),
            None => answers.create_once(key.id(), body, now).await.map(|_| ()),
        }
    };
    if let Err(error) = kept.await {
        tracing::warn!(run = %context.run.run, %error, "failed to keep an answer in the cache");
    }
}
