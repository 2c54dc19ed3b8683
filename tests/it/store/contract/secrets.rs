//! Managed secrets: one per key and tenant, changed only on top of what was read.

use dispatch::id::SecretId;
use dispatch::store::{StoreError, StoredSecret};

use super::Site;
use super::world::{World, world};

fn secret(world: &World, key: &str) -> StoredSecret {
    StoredSecret {
        id: SecretId::from_u128(world.next()),
        key: key.into(),
        description: None,
        sealed: Some(vec![0, 255, 7]),
        version: 1,
        rotated_at: Some(world.now),
        created_at: world.now,
        updated_at: world.now,
    }
}

pub async fn a_secret_is_kept_changed_and_deleted(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = secret(&world, "crm.key");
    store.create_secret(world.tenant, first.clone()).await.unwrap();
    assert!(matches!(
        store.create_secret(world.tenant, secret(&world, "crm.key")).await,
        Err(StoreError::Exists("a secret with this key"))
    ));
    assert_eq!(store.find_secret(world.tenant, first.id).await.unwrap().as_ref(), Some(&first));
    let pending =
        StoredSecret { sealed: None, version: 0, rotated_at: None, description: Some("Größe".into()), ..secret(&world, "Bill") };
    store.create_secret(world.tenant, pending.clone()).await.unwrap();
    assert_eq!(store.list_secrets(world.tenant).await.unwrap(), [pending, first.clone()]);
    let next = StoredSecret { sealed: Some(vec![1]), version: 2, updated_at: world.at(1), ..first.clone() };
    assert!(store.update_secret(world.tenant, next.clone(), 1).await.unwrap());
    assert!(!store.update_secret(world.tenant, StoredSecret { sealed: None, ..next.clone() }, 1).await.unwrap(), "it moved on");
    assert_eq!(store.find_secret(world.tenant, first.id).await.unwrap(), Some(next));
    assert!(store.delete_secret(world.tenant, first.id).await.unwrap());
    assert!(!store.delete_secret(world.tenant, first.id).await.unwrap());
}

pub async fn nobody_reaches_a_stranger_s_secret(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = secret(&world, "key");
    store.create_secret(world.tenant, first.clone()).await.unwrap();
    assert!(store.find_secret(world.stranger, first.id).await.unwrap().is_none());
    assert!(store.list_secrets(world.stranger).await.unwrap().is_empty());
    assert!(!store.update_secret(world.stranger, first.clone(), 1).await.unwrap());
    assert!(!store.delete_secret(world.stranger, first.id).await.unwrap());
    store.create_secret(world.stranger, secret(&world, "key")).await.unwrap();
    assert_eq!(store.list_secrets(world.tenant).await.unwrap(), [first]);
}
