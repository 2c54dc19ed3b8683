//! What is kept as it was written: flows, records, documents, answers, secrets, vectors. Accounts are not sealed: they say who may come in.

use async_trait::async_trait;
use serde_json::Value;

use super::keys::sealed_in;
use super::{Keys, Place, Sealing};
use crate::clock::Timestamp;
use crate::id::{FlowId, FlowVersionId, KeyId, RecordId, SecretId, TenantId};
use crate::model::filter::Filter;
use crate::model::vector::Vector;
use crate::model::{Record, TargetKind};
use crate::store::{
    Accounts, Answer, ApiKey, Begun, Created, Credential, DocumentQuery, DocumentRow, Documents, FlowVersion, Flows, Idempotency, Near,
    Nearest, Put, Receipt, RecordPage, RecordQuery, Records, SavedFlow, Secrets, StoreError, StoreResult, StoredSecret, Tenant, Vaults,
    Vectors,
};

/// Documents that are read before anybody has shown a key, or without one: how long the tenant's data is kept is no secret of the tenant.
const OPEN: [&str; 6] = ["api_session", "handshake", "wrapping_check", "tenant_keys", "retention", "retention_sweep"];

impl Keys {
    fn turn_text(&self, text: &mut Option<String>, place: &Place<'_>, hide: bool) -> StoreResult<()> {
        text.as_mut().map_or(Ok(()), |text| if hide { self.hide(text, place) } else { self.show(text, place) })
    }

    fn turn_flow(&self, flow: &mut SavedFlow, hide: bool) -> StoreResult<()> {
        self.turn_text(&mut flow.description, &Place::new("flows", &flow.id.to_string(), "description"), hide)
    }

    fn hide_version(&self, version: &mut FlowVersion) -> StoreResult<()> {
        self.hide_value(&mut version.document, &Place::new("flow_versions", &version.id.to_string(), "document"))
    }

    fn show_version(&self, version: &mut FlowVersion) -> StoreResult<()> {
        self.show_value(&mut version.document, &Place::new("flow_versions", &version.id.to_string(), "document"))
    }

    fn hide_record(&self, record: &mut Record) -> StoreResult<()> {
        let (metadata, messages) = (std::mem::take(&mut record.metadata), std::mem::take(&mut record.messages));
        record.metadata =
            [("metadata".to_owned(), Value::Object(metadata)), ("messages".to_owned(), Value::Array(messages))].into_iter().collect();
        self.hide_map(&mut record.metadata, &Place::new("records", &record.id.to_string(), "metadata"))
    }

    fn show_record(&self, record: &mut Record) -> StoreResult<()> {
        let sealed = sealed_in(&record.metadata).is_some();
        self.show_map(&mut record.metadata, &Place::new("records", &record.id.to_string(), "metadata"))?;
        if sealed
            && let (Some(Value::Object(metadata)), Some(Value::Array(messages))) =
                (record.metadata.remove("metadata"), record.metadata.remove("messages"))
        {
            (record.metadata, record.messages) = (metadata, messages);
        }
        Ok(())
    }

    fn turn_document(&self, kind: &str, row: &mut DocumentRow, hide: bool) -> StoreResult<()> {
        let id = format!("{kind}/{}", row.id);
        let place = Place::new("documents", &id, "body");
        row.body = if hide { self.seal_json(&row.body, &place)? } else { self.open_json(&row.body, &place)? };
        Ok(())
    }

    fn turn_secret(&self, secret: &mut StoredSecret, hide: bool) -> StoreResult<()> {
        let row = secret.id.to_string();
        self.turn_text(&mut secret.description, &Place::new("secrets", &row, "description"), hide)?;
        let place = Place::new("secrets", &row, "sealed");
        secret.sealed.as_mut().map_or(Ok(()), |sealed| self.turn_bytes(sealed, &place, hide))
    }

    fn turn_bytes(&self, bytes: &mut Vec<u8>, place: &Place<'_>, hide: bool) -> StoreResult<()> {
        *bytes = if hide { self.seal_bytes(bytes, place)? } else { self.open_bytes(bytes, place)?.to_vec() };
        Ok(())
    }

    /// A credential is one of its provider: that keeps its place when it is given anew.
    fn turn_credential(&self, credential: &mut Credential, hide: bool) -> StoreResult<()> {
        let provider = credential.provider.clone();
        let place = Place::new("credentials", &provider, "hint");
        if hide {
            self.hide(&mut credential.hint, &place)?;
        } else {
            self.show(&mut credential.hint, &place)?;
        }
        self.turn_bytes(&mut credential.sealed, &Place::new("credentials", &provider, "sealed"), hide)
    }

    fn hide_vector(&self, vector: &mut Vector) -> StoreResult<()> {
        // One that takes another's name takes its place, too, under the other's id.
        self.turn_text(&mut vector.text, &Place::new("vectors", &vector.collection, "text"), true)?;
        self.hide_map(&mut vector.metadata, &Place::new("vectors", &vector.collection, "metadata"))
    }

    fn show_near(&self, near: &mut Near, collection: &str) -> StoreResult<()> {
        self.turn_text(&mut near.text, &Place::new("vectors", collection, "text"), false)?;
        self.show_map(&mut near.metadata, &Place::new("vectors", collection, "metadata"))
    }
}

#[async_trait]
impl Flows for Sealing {
    async fn create_flow(&self, tenant: TenantId, mut flow: SavedFlow, mut version: FlowVersion) -> StoreResult<()> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.turn_flow(&mut flow, true)?;
            keys.hide_version(&mut version)?;
        }
        self.inner.create_flow(tenant, flow, version).await
    }

    async fn update_flow(
        &self,
        tenant: TenantId,
        mut flow: SavedFlow,
        mut version: Option<FlowVersion>,
        expected: Option<FlowVersionId>,
    ) -> StoreResult<Option<SavedFlow>> {
        let keys = self.keys(tenant).await?;
        if let Some(keys) = &keys {
            keys.turn_flow(&mut flow, true)?;
            version.as_mut().map_or(Ok(()), |version| keys.hide_version(version))?;
        }
        let mut updated = self.inner.update_flow(tenant, flow, version, expected).await?;
        if let (Some(keys), Some(updated)) = (keys, &mut updated) {
            keys.turn_flow(updated, false)?;
        }
        Ok(updated)
    }

    async fn find_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<Option<SavedFlow>> {
        let found = self.inner.find_flow(tenant, kind, id).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, |keys, flow| keys.turn_flow(flow, false)).await?.pop())
    }

    async fn find_flow_by_name(&self, tenant: TenantId, kind: TargetKind, name: &str) -> StoreResult<Option<SavedFlow>> {
        let found = self.inner.find_flow_by_name(tenant, kind, name).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, |keys, flow| keys.turn_flow(flow, false)).await?.pop())
    }

    async fn list_flows(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        before: Option<FlowId>,
        search: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<SavedFlow>> {
        let flows = self.inner.list_flows(tenant, kind, before, search, limit).await?;
        self.show_all(tenant, flows, |keys, flow| keys.turn_flow(flow, false)).await
    }

    async fn delete_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<bool> {
        self.inner.delete_flow(tenant, kind, id).await
    }

    async fn find_flow_version(&self, tenant: TenantId, id: FlowVersionId) -> StoreResult<Option<FlowVersion>> {
        let found = self.inner.find_flow_version(tenant, id).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, Keys::show_version).await?.pop())
    }

    async fn list_flow_versions(&self, tenant: TenantId, flow: FlowId) -> StoreResult<Vec<FlowVersion>> {
        let versions = self.inner.list_flow_versions(tenant, flow).await?;
        self.show_all(tenant, versions, Keys::show_version).await
    }

    async fn delete_flow_version(&self, tenant: TenantId, flow: FlowId, version: FlowVersionId) -> StoreResult<bool> {
        self.inner.delete_flow_version(tenant, flow, version).await
    }

    async fn publish_flow(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        flow: FlowId,
        version: FlowVersionId,
        now: Timestamp,
    ) -> StoreResult<bool> {
        self.inner.publish_flow(tenant, kind, flow, version, now).await
    }
}

#[async_trait]
impl Records for Sealing {
    async fn create_record(&self, tenant: TenantId, mut record: Record) -> StoreResult<()> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_record(&mut record)?;
        }
        self.inner.create_record(tenant, record).await
    }

    async fn replace_record(&self, tenant: TenantId, mut record: Record, expected: Timestamp) -> StoreResult<bool> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_record(&mut record)?;
        }
        self.inner.replace_record(tenant, record, expected).await
    }

    async fn find_record(&self, tenant: TenantId, id: RecordId) -> StoreResult<Option<Record>> {
        let found = self.inner.find_record(tenant, id).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, Keys::show_record).await?.pop())
    }

    async fn find_record_by_name(&self, tenant: TenantId, kind: &str, name: &str) -> StoreResult<Option<Record>> {
        let found = self.inner.find_record_by_name(tenant, kind, name).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, Keys::show_record).await?.pop())
    }

    async fn list_records(&self, tenant: TenantId, query: RecordQuery) -> StoreResult<RecordPage> {
        let keys = self.keys(tenant).await?;
        if keys.is_some() && query.filter != Filter::everything() {
            return Err(StoreError::Unfit { what: "a filter", why: "this tenant's records are sealed: find them by type and name" });
        }
        let mut page = self.inner.list_records(tenant, query).await?;
        if let Some(keys) = keys {
            page.records.iter_mut().try_for_each(|record| keys.show_record(record))?;
        }
        Ok(page)
    }

    async fn delete_records(&self, tenant: TenantId, ids: &[RecordId]) -> StoreResult<u64> {
        self.inner.delete_records(tenant, ids).await
    }
}

#[async_trait]
impl Documents for Sealing {
    async fn create_document(&self, tenant: TenantId, kind: &str, mut row: DocumentRow) -> StoreResult<()> {
        if let Some(keys) = self.keys_of(tenant, kind).await? {
            keys.turn_document(kind, &mut row, true)?;
        }
        self.inner.create_document(tenant, kind, row).await
    }

    async fn replace_document(&self, tenant: TenantId, kind: &str, mut row: DocumentRow) -> StoreResult<bool> {
        if let Some(keys) = self.keys_of(tenant, kind).await? {
            keys.turn_document(kind, &mut row, true)?;
        }
        self.inner.replace_document(tenant, kind, row).await
    }

    async fn find_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<Option<DocumentRow>> {
        let found = self.inner.find_document(tenant, kind, id).await?.into_iter().collect();
        Ok(self.show_documents(tenant, kind, found).await?.pop())
    }

    async fn find_document_at(&self, tenant: TenantId, kind: &str, place: &str) -> StoreResult<Option<DocumentRow>> {
        let found = self.inner.find_document_at(tenant, kind, place).await?.into_iter().collect();
        Ok(self.show_documents(tenant, kind, found).await?.pop())
    }

    async fn list_documents(&self, tenant: TenantId, kind: &str, query: DocumentQuery) -> StoreResult<Vec<DocumentRow>> {
        let rows = self.inner.list_documents(tenant, kind, query).await?;
        self.show_documents(tenant, kind, rows).await
    }

    async fn delete_document(&self, tenant: TenantId, kind: &str, id: &str) -> StoreResult<bool> {
        self.inner.delete_document(tenant, kind, id).await
    }

    async fn delete_documents_of(&self, tenant: TenantId, kind: &str, parent: &str) -> StoreResult<u64> {
        self.inner.delete_documents_of(tenant, kind, parent).await
    }

    async fn due_documents(
        &self,
        kind: &str,
        now: Timestamp,
        except: &[TenantId],
        limit: u32,
    ) -> StoreResult<Vec<(TenantId, DocumentRow)>> {
        if OPEN.contains(&kind) {
            return self.inner.due_documents(kind, now, except, limit).await;
        }
        let mut readable = Vec::new();
        for (tenant, mut row) in self.inner.due_documents(kind, now, &self.without(except), limit).await? {
            let opened = self.open_one(tenant, |keys| keys.turn_document(kind, &mut row, false)).await?;
            // The others must not wait for one that cannot be read.
            if self.is_readable(tenant, opened) {
                readable.push((tenant, row));
            }
        }
        Ok(readable)
    }

    async fn trim_documents(&self, tenant: TenantId, kind: &str, number: u32, bytes: u64) -> StoreResult<u64> {
        self.inner.trim_documents(tenant, kind, number, bytes).await
    }
}

impl Sealing {
    async fn keys_of(&self, tenant: TenantId, kind: &str) -> StoreResult<Option<std::sync::Arc<Keys>>> {
        if OPEN.contains(&kind) { Ok(None) } else { self.keys(tenant).await }
    }

    async fn show_documents(&self, tenant: TenantId, kind: &str, mut rows: Vec<DocumentRow>) -> StoreResult<Vec<DocumentRow>> {
        if let Some(keys) = self.keys_of(tenant, kind).await? {
            rows.iter_mut().try_for_each(|row| keys.turn_document(kind, row, false))?;
        }
        Ok(rows)
    }
}

#[async_trait]
impl Accounts for Sealing {
    async fn create_first_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<bool> {
        self.inner.create_first_tenant(tenant, key).await
    }

    async fn create_tenant(&self, tenant: Tenant, key: ApiKey) -> StoreResult<()> {
        self.inner.create_tenant(tenant, key).await
    }

    async fn list_tenants(&self) -> StoreResult<Vec<Tenant>> {
        self.inner.list_tenants().await
    }

    async fn create_key(&self, key: ApiKey) -> StoreResult<()> {
        self.inner.create_key(key).await
    }

    async fn find_key(&self, hash: &str) -> StoreResult<Option<ApiKey>> {
        self.inner.find_key(hash).await
    }

    async fn list_keys(&self, tenant: TenantId) -> StoreResult<Vec<ApiKey>> {
        self.inner.list_keys(tenant).await
    }

    async fn revoke_key(&self, tenant: TenantId, id: KeyId, now: Timestamp) -> StoreResult<bool> {
        self.inner.revoke_key(tenant, id, now).await
    }
}

#[async_trait]
impl Idempotency for Sealing {
    async fn begin_receipt(&self, tenant: TenantId, receipt: Receipt, now: Timestamp) -> StoreResult<Begun> {
        let row = format!("{}/{}", receipt.route, receipt.key);
        let mut begun = self.inner.begin_receipt(tenant, receipt, now).await?;
        if let (Begun::Answered { answer, .. }, Some(keys)) = (&mut begun, self.keys(tenant).await?) {
            keys.show_value(&mut answer.body, &Place::new("idempotency", &row, "body"))?;
        }
        Ok(begun)
    }

    async fn find_created_run(&self, tenant: TenantId, route: &str, key: &str, now: Timestamp) -> StoreResult<Option<Created>> {
        self.inner.find_created_run(tenant, route, key, now).await
    }

    async fn file_answer(&self, tenant: TenantId, route: &str, key: &str, mut answer: Answer) -> StoreResult<()> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.hide_value(&mut answer.body, &Place::new("idempotency", &format!("{route}/{key}"), "body"))?;
        }
        self.inner.file_answer(tenant, route, key, answer).await
    }

    async fn drop_receipt(&self, tenant: TenantId, route: &str, key: &str) -> StoreResult<()> {
        self.inner.drop_receipt(tenant, route, key).await
    }

    async fn purge_receipts(&self, now: Timestamp) -> StoreResult<u64> {
        self.inner.purge_receipts(now).await
    }
}

#[async_trait]
impl Secrets for Sealing {
    async fn create_secret(&self, tenant: TenantId, mut secret: StoredSecret) -> StoreResult<()> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.turn_secret(&mut secret, true)?;
        }
        self.inner.create_secret(tenant, secret).await
    }

    async fn update_secret(&self, tenant: TenantId, mut secret: StoredSecret, expected: u32) -> StoreResult<bool> {
        if let Some(keys) = self.keys(tenant).await? {
            keys.turn_secret(&mut secret, true)?;
        }
        self.inner.update_secret(tenant, secret, expected).await
    }

    async fn find_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<Option<StoredSecret>> {
        let found = self.inner.find_secret(tenant, id).await?.into_iter().collect();
        Ok(self.show_all(tenant, found, |keys, secret| keys.turn_secret(secret, false)).await?.pop())
    }

    async fn list_secrets(&self, tenant: TenantId) -> StoreResult<Vec<StoredSecret>> {
        let secrets = self.inner.list_secrets(tenant).await?;
        self.show_all(tenant, secrets, |keys, secret| keys.turn_secret(secret, false)).await
    }

    async fn delete_secret(&self, tenant: TenantId, id: SecretId) -> StoreResult<bool> {
        self.inner.delete_secret(tenant, id).await
    }
}

#[async_trait]
impl Vaults for Sealing {
    async fn put_credential(&self, tenant: TenantId, mut credential: Credential) -> StoreResult<Credential> {
        let keys = self.keys(tenant).await?;
        if let Some(keys) = &keys {
            keys.turn_credential(&mut credential, true)?;
        }
        let mut put = self.inner.put_credential(tenant, credential).await?;
        if let Some(keys) = keys {
            keys.turn_credential(&mut put, false)?;
        }
        Ok(put)
    }

    async fn list_credentials(&self, tenant: TenantId) -> StoreResult<Vec<Credential>> {
        let credentials = self.inner.list_credentials(tenant).await?;
        self.show_all(tenant, credentials, |keys, credential| keys.turn_credential(credential, false)).await
    }

    async fn delete_credential(&self, tenant: TenantId, provider: &str) -> StoreResult<bool> {
        self.inner.delete_credential(tenant, provider).await
    }
}

#[async_trait]
impl Vectors for Sealing {
    async fn put_vectors(&self, tenant: TenantId, mut vectors: Vec<Vector>) -> StoreResult<Put> {
        if let Some(keys) = self.keys(tenant).await? {
            vectors.iter_mut().try_for_each(|vector| keys.hide_vector(vector))?;
        }
        self.inner.put_vectors(tenant, vectors).await
    }

    async fn nearest_vectors(&self, tenant: TenantId, query: Nearest) -> StoreResult<Vec<Near>> {
        let keys = self.keys(tenant).await?;
        if keys.is_some() && !query.filter.is_empty() {
            return Err(StoreError::Unfit {
                what: "a filter",
                why: "this tenant's vectors are sealed: leave it out, or use a collection for each case",
            });
        }
        let collection = query.collection.clone();
        let mut found = self.inner.nearest_vectors(tenant, query).await?;
        if let Some(keys) = keys {
            found.iter_mut().try_for_each(|near| keys.show_near(near, &collection))?;
        }
        Ok(found)
    }

    async fn delete_vectors(&self, tenant: TenantId, collection: &str, which: Option<Vec<String>>) -> StoreResult<u64> {
        self.inner.delete_vectors(tenant, collection, which).await
    }
}
