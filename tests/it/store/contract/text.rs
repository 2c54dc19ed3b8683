//! Text that no database keeps is refused everywhere with the same words, before anything is written.

use std::fmt::Debug;

use dispatch::id::{CredentialId, FlowId, FlowVersionId, KeyId, RecordId};
use dispatch::model::wait::Wait;
use dispatch::model::{Record, RunState, TargetKind};
use dispatch::store::{
    Answer, ApiKey, Commit, Credential, DocumentQuery, FlowVersion, NewRun, Receipt, RunKey, SavedFlow, Signal, StoreError, StoreResult,
    Tenant,
};
use serde_json::json;

use super::Site;
use super::world::{done, world};

const NUL: &str = "a\0b";

fn refused<T: Debug>(what: &str, result: StoreResult<T>) {
    match result {
        Err(StoreError::Unfit { what: found, .. }) => assert_eq!(found, what),
        other => panic!("{what}: {other:?}"),
    }
}

pub async fn a_nul_in_a_run_is_refused(site: Site) {
    let (world, store) = (world(), &site.store);
    refused("a run's flow name", store.create_run(NewRun { flow_name: NUL.into(), ..world.leased() }).await);
    let key = |key: &str, route: &str| Some(RunKey { route: route.into(), ..world.key(key, "h") });
    refused("an idempotency key", store.create_run(NewRun { key: key(NUL, "r"), ..world.leased() }).await);
    refused("a route", store.create_run(NewRun { key: key("k", NUL), ..world.leased() }).await);
    refused("a journal key", store.create_run(NewRun { journal: vec![done(NUL, json!(1))], ..world.leased() }).await);
    let run = world.start(store).await;
    let commit = world.commit(run, 1, RunState::Running);
    refused("a journal key", store.commit_run(Commit { journal: vec![done(NUL, json!(1))], ..commit.clone() }).await);
    let named = Wait { name: NUL.into(), ..world.wait(run) };
    refused("a wait's name", store.commit_run(Commit { waits: vec![named], ..commit.clone() }).await);
    refused("a sequence number", store.commit_run(Commit { reserved: u64::MAX, ..commit }).await);
    let signal = Signal { name: "s".into(), id: NUL.into(), payload: json!(1) };
    refused("a signal's id", store.send_signal(world.tenant, run, signal, world.now).await);
    assert_eq!(world.find(store, run).await.commit, 0);
}

pub async fn a_nul_in_a_name_is_refused(site: Site) {
    let (world, store) = (world(), &site.store);
    let (id, version) = (FlowId::from_u128(world.next()), FlowVersionId::from_u128(world.next()));
    let flow = SavedFlow {
        id,
        kind: TargetKind::Flow,
        name: NUL.into(),
        description: None,
        created_at: world.now,
        updated_at: world.now,
        current: version,
        published: None,
    };
    let first = FlowVersion { id: version, flow: id, number: 1, document: json!({}), created_at: world.now, published_at: None };
    refused("a flow's name", store.create_flow(world.tenant, flow.clone(), first).await);
    refused("a flow's name", store.update_flow(world.tenant, flow, None, None).await);
    let record = Record {
        id: RecordId::from_u128(world.next()),
        kind: NUL.into(),
        name: "x".into(),
        metadata: serde_json::Map::new(),
        messages: vec![],
        created_at: world.now,
        updated_at: world.now,
    };
    refused("a record's type", store.create_record(world.tenant, record.clone()).await);
    refused("a record's type", store.replace_record(world.tenant, record, world.now).await);
    let tenant = Tenant { id: world.tenant, name: NUL.into(), created_at: world.now };
    let key = ApiKey {
        id: KeyId::from_u128(world.next()),
        tenant: world.tenant,
        name: NUL.into(),
        hash: "h".into(),
        hint: "x".into(),
        scopes: vec![],
        created_at: world.now,
        expires_at: None,
        revoked_at: None,
    };
    refused("a tenant's name", store.create_first_tenant(tenant.clone(), key.clone()).await);
    refused("a tenant's name", store.create_tenant(tenant, key.clone()).await);
    refused("a key's name", store.create_key(key).await);
    let credential = Credential {
        id: CredentialId::from_u128(world.next()),
        provider: NUL.into(),
        sealed: vec![0],
        hint: "x".into(),
        created_at: world.now,
        updated_at: world.now,
    };
    refused("a provider's name", store.put_credential(world.tenant, credential).await);
    let receipt =
        Receipt { route: "r".into(), key: NUL.into(), request_hash: "h".into(), seed: 1, lease_until: world.now, expires_at: world.at(1) };
    refused("an idempotency key", store.begin_receipt(world.tenant, receipt, world.now).await);
}

pub async fn a_nul_finds_nothing(site: Site) {
    let (world, store) = (world(), &site.store);
    assert!(store.find_flow_by_name(world.tenant, TargetKind::Flow, NUL).await.unwrap().is_none());
    assert!(store.list_flows(world.tenant, TargetKind::Flow, None, Some(NUL), 5).await.unwrap().is_empty());
    assert!(store.find_record_by_name(world.tenant, NUL, "x").await.unwrap().is_none());
    assert!(store.find_record_by_name(world.tenant, "x", NUL).await.unwrap().is_none());
    assert!(store.find_key(NUL).await.unwrap().is_none());
    assert!(!store.delete_credential(world.tenant, NUL).await.unwrap());
    store.file_answer(world.tenant, "r", NUL, Answer { status: 200, body: json!(1) }).await.unwrap();
    store.drop_receipt(world.tenant, NUL, "k").await.unwrap();
    assert!(store.find_created_run(world.tenant, "r", NUL, world.now).await.unwrap().is_none());
    assert!(store.find_document(world.tenant, "thing", NUL).await.unwrap().is_none());
    assert!(store.find_document_at(world.tenant, "thing", NUL).await.unwrap().is_none());
    assert!(!store.delete_document(world.tenant, "thing", NUL).await.unwrap());
    assert_eq!(store.delete_documents_of(world.tenant, "thing", NUL).await.unwrap(), 0);
    for query in [
        DocumentQuery { parent: Some(NUL.into()), limit: 5, ..DocumentQuery::default() },
        DocumentQuery { before: Some(NUL.into()), limit: 5, ..DocumentQuery::default() },
    ] {
        assert!(store.list_documents(world.tenant, "thing", query).await.unwrap().is_empty());
    }
}
