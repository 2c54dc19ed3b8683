//! Receipts of creating calls, so that a repeated call creates nothing new.
//!
//! Runs carry their key in the creating commit itself ([`super::RunKey`]); every other creating call
//! takes a receipt first, does its work under the id that the receipt holds, and then files its answer.

use async_trait::async_trait;
use serde_json::Value;

use super::{Created, StoreError, StoreResult};
use crate::clock::Timestamp;
use crate::id::TenantId;

/// A claim on a key.
#[derive(Debug, Clone)]
pub struct Receipt {
    pub route: String,
    pub key: String,
    pub request_hash: String,
    /// 128 bits for the id of what is created, so that a takeover after a crash creates the same thing.
    pub seed: u128,
    /// Others may take over when the claimant has not answered by then.
    pub lease_until: Timestamp,
    pub expires_at: Timestamp,
}

/// The answer that was given.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Yours: do the work under this seed (an earlier claimant's, if one went away).
    Mine { seed: u128 },
    /// Done before; the answer, if the request was the same.
    Answered { request_hash: String, answer: Answer },
    /// Another call with this key is being worked on.
    InProgress { request_hash: String },
}

/// The store of receipts.
#[async_trait]
pub trait Idempotency {
    async fn begin_receipt(&self, tenant: TenantId, receipt: Receipt, now: Timestamp) -> StoreResult<Begun>;

    /// The run that a key created, with the hash of its request; [`super::Created::Duplicate`].
    async fn find_created_run(&self, tenant: TenantId, route: &str, key: &str, now: Timestamp) -> StoreResult<Option<Created>>;

    /// Files the answer of a claim.
    async fn file_answer(&self, tenant: TenantId, route: &str, key: &str, answer: Answer) -> StoreResult<()>;

    /// Drops a claim whose work was refused, so that a corrected call may use the key.
    async fn drop_receipt(&self, tenant: TenantId, route: &str, key: &str) -> StoreResult<()>;

    /// Removes expired receipts of every tenant; how many.
    async fn purge_receipts(&self, now: Timestamp) -> StoreResult<u64>;
}

/// A receipt's row, not yet expired.
#[derive(Debug, Clone)]
pub(super) struct Filed {
    pub request_hash: String,
    /// The run that the key created, or a seed in hexadecimal.
    pub subject: String,
    pub answer: Option<(i64, String)>,
    pub lease_until: i64,
}

/// How a seed is kept.
pub(super) fn write_seed(seed: u128) -> String {
    format!("{seed:032x}")
}

impl Filed {
    /// What a new claim on this row's key gets; `Mine` means that the claimant's lease must be written.
    pub fn judge(self, receipt: &Receipt, now: Timestamp) -> StoreResult<Begun> {
        let bad = |column: &'static str, why: String| StoreError::Broken { table: "idempotency", column, row: receipt.key.clone(), why };
        if let Some((status, body)) = self.answer {
            let status = u16::try_from(status).map_err(|why| bad("status", why.to_string()))?;
            let body = serde_json::from_str(&body).map_err(|why| bad("body", why.to_string()))?;
            return Ok(Begun::Answered { request_hash: self.request_hash, answer: Answer { status, body } });
        }
        if self.lease_until > now.as_millis() || self.request_hash != receipt.request_hash {
            return Ok(Begun::InProgress { request_hash: self.request_hash });
        }
        let seed = u128::from_str_radix(&self.subject, 16).map_err(|why| bad("subject", why.to_string()))?;
        Ok(Begun::Mine { seed })
    }
}
