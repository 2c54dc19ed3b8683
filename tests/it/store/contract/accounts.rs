//! Tenants and their API keys.

use dispatch::id::{KeyId, TenantId};
use dispatch::store::{ApiKey, StoreError, Tenant};
use futures_util::future::join_all;

use super::Site;
use super::world::{World, world};

fn tenant(world: &World, id: TenantId) -> (Tenant, ApiKey) {
    let key = key(world, id, &id.to_string());
    (Tenant { id, name: "Größe".into(), created_at: world.now }, key)
}

fn key(world: &World, tenant: TenantId, hash: &str) -> ApiKey {
    ApiKey {
        id: KeyId::from_u128(world.next()),
        tenant,
        name: "first".into(),
        hash: hash.into(),
        hint: "dk_1".into(),
        scopes: vec!["FLOWS:*".into(), "é".into()],
        created_at: world.now,
        expires_at: Some(world.at(60)),
        revoked_at: None,
    }
}

pub async fn the_first_tenant_is_created_once(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let starts = (0..10).map(|turn| {
        let (tenant, key) = tenant(&world, TenantId::from_u128(world.next()));
        let store = if turn % 2 == 0 { store } else { &other };
        async move { (tenant.id, store.create_first_tenant(tenant, key).await.unwrap()) }
    });
    let created: Vec<_> = join_all(starts).await.into_iter().filter(|(_, created)| *created).map(|(id, _)| id).collect();
    assert_eq!(created.len(), 1, "of ten nodes that start at once");
    let tenants = store.list_tenants().await.unwrap();
    assert_eq!(tenants.iter().map(|tenant| tenant.id).collect::<Vec<_>>(), created);
    assert_eq!(store.list_keys(created[0]).await.unwrap().len(), 1);
}

pub async fn tenants_are_listed_oldest_first(site: Site) {
    let (world, store) = (world(), &site.store);
    for id in [world.tenant, world.stranger] {
        let (tenant, key) = tenant(&world, id);
        store.create_tenant(tenant, key).await.unwrap();
    }
    let (again, key) = tenant(&world, world.tenant);
    assert!(matches!(store.create_tenant(again.clone(), key).await, Err(StoreError::Exists(_))));
    let tenants = store.list_tenants().await.unwrap();
    assert_eq!(tenants.iter().map(|tenant| tenant.id).collect::<Vec<_>>(), [world.tenant, world.stranger]);
    assert_eq!(tenants[0], again);
}

pub async fn a_key_is_found_by_its_hash(site: Site) {
    let (world, store) = (world(), &site.store);
    let (owner, first) = tenant(&world, world.tenant);
    store.create_tenant(owner, first.clone()).await.unwrap();
    assert_eq!(store.find_key(&first.hash).await.unwrap(), Some(first.clone()));
    assert!(store.find_key("nothing").await.unwrap().is_none());
    let second = ApiKey { expires_at: None, scopes: vec![], ..key(&world, world.tenant, "two") };
    store.create_key(second.clone()).await.unwrap();
    assert!(matches!(store.create_key(key(&world, world.tenant, "two")).await, Err(StoreError::Exists("this key"))));
    assert_eq!(store.list_keys(world.tenant).await.unwrap(), [first, second]);
    assert!(store.list_keys(world.stranger).await.unwrap().is_empty());
    assert!(store.create_key(key(&world, world.stranger, "three")).await.is_err(), "a key has a tenant");
}

pub async fn a_key_is_revoked_by_its_tenant(site: Site) {
    let (world, store) = (world(), &site.store);
    let (owner, first) = tenant(&world, world.tenant);
    store.create_tenant(owner, first.clone()).await.unwrap();
    assert!(!store.revoke_key(world.stranger, first.id, world.now).await.unwrap());
    assert!(!store.revoke_key(world.tenant, KeyId::from_u128(world.next()), world.now).await.unwrap());
    assert_eq!(store.find_key(&first.hash).await.unwrap().unwrap().revoked_at, None);
    assert!(store.revoke_key(world.tenant, first.id, world.at(1)).await.unwrap());
    assert!(store.revoke_key(world.tenant, first.id, world.at(2)).await.unwrap());
    assert_eq!(store.find_key(&first.hash).await.unwrap().unwrap().revoked_at, Some(world.at(1)), "the first time stays");
}
