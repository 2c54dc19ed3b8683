//! Receipts in memory. The keys of runs lie in the same table, as in the databases.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId};
use crate::store::batch::json;
use crate::store::idempotency::{Filed, write_seed};
use crate::store::text::Fit;
use crate::store::{Answer, Begun, Created, Idempotency, NewRun, Receipt, StoreError, StoreResult};

type Place = (TenantId, String, String);

/// By tenant, route and key, with the time of expiry.
#[derive(Default)]
pub(super) struct Receipts(BTreeMap<Place, (Timestamp, Filed)>);

impl Receipts {
    fn get(&self, place: &Place, now: Timestamp) -> Option<&Filed> {
        self.0.get(place).filter(|(expires, _)| *expires > now).map(|(_, filed)| filed)
    }

    /// Deletes the keys of a run.
    pub fn remove_run(&mut self, run: RunId) {
        let subject = run.suffix();
        self.0.retain(|_, (_, filed)| filed.subject != subject);
    }

    /// Takes the key that a new run came with, unless it is taken.
    pub fn take(&mut self, new: &NewRun) -> StoreResult<Created> {
        let Some(key) = &new.key else { return Ok(Created::New) };
        let place = (new.tenant, key.route.clone(), key.key.clone());
        if let Some(filed) = self.get(&place, new.created_at) {
            let run = RunId::from_suffix(&filed.subject).map_err(|why| StoreError::Broken {
                table: "idempotency",
                column: "subject",
                row: key.key.clone(),
                why: why.to_string(),
            })?;
            return Ok(Created::Duplicate { run, request_hash: filed.request_hash.clone() });
        }
        let filed = Filed {
            request_hash: key.request_hash.clone(),
            subject: new.id.suffix(),
            answer: None,
            lease_until: new.created_at.as_millis(),
        };
        self.0.insert(place, (key.expires_at, filed));
        Ok(Created::New)
    }
}

#[async_trait]
impl Idempotency for MemoryStore {
    async fn begin_receipt(&self, tenant: TenantId, receipt: Receipt, now: Timestamp) -> StoreResult<Begun> {
        receipt.fit()?;
        let receipts = &mut self.tables().receipts;
        let place = (tenant, receipt.route.clone(), receipt.key.clone());
        if let Some(filed) = receipts.get(&place, now) {
            let begun = filed.clone().judge(&receipt, now)?;
            if let (Begun::Mine { .. }, Some((_, filed))) = (&begun, receipts.0.get_mut(&place)) {
                filed.lease_until = receipt.lease_until.as_millis();
            }
            return Ok(begun);
        }
        let filed = Filed {
            request_hash: receipt.request_hash,
            subject: write_seed(receipt.seed),
            answer: None,
            lease_until: receipt.lease_until.as_millis(),
        };
        receipts.0.insert(place, (receipt.expires_at, filed));
        Ok(Begun::Mine { seed: receipt.seed })
    }

    async fn find_created_run(&self, tenant: TenantId, route: &str, key: &str, now: Timestamp) -> StoreResult<Option<Created>> {
        let tables = self.tables();
        let filed = tables.receipts.get(&(tenant, route.to_owned(), key.to_owned()), now);
        // Receipts of other calls hold a seed there, which is no run's id.
        Ok(filed.and_then(|filed| {
            let run = RunId::from_suffix(&filed.subject).ok()?;
            Some(Created::Duplicate { run, request_hash: filed.request_hash.clone() })
        }))
    }

    async fn file_answer(&self, tenant: TenantId, route: &str, key: &str, answer: Answer) -> StoreResult<()> {
        let receipts = &mut self.tables().receipts;
        if let Some((_, filed)) = receipts.0.get_mut(&(tenant, route.to_owned(), key.to_owned())) {
            filed.answer = Some((i64::from(answer.status), json(&answer.body)));
        }
        Ok(())
    }

    async fn drop_receipt(&self, tenant: TenantId, route: &str, key: &str) -> StoreResult<()> {
        let receipts = &mut self.tables().receipts.0;
        let place = (tenant, route.to_owned(), key.to_owned());
        if receipts.get(&place).is_some_and(|(_, filed)| filed.answer.is_none()) {
            receipts.remove(&place);
        }
        Ok(())
    }

    async fn purge_receipts(&self, now: Timestamp) -> StoreResult<u64> {
        let receipts = &mut self.tables().receipts.0;
        let before = receipts.len();
        receipts.retain(|_, (expires, _)| *expires > now);
        Ok((before - receipts.len()) as u64)
    }
}
