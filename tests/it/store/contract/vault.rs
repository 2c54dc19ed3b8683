//! Sealed credentials: one per provider and tenant.

use dispatch::id::CredentialId;
use dispatch::store::Credential;

use super::Site;
use super::world::{World, world};

fn credential(world: &World, provider: &str, sealed: &[u8]) -> Credential {
    Credential {
        id: CredentialId::from_u128(world.next()),
        provider: provider.into(),
        sealed: sealed.into(),
        hint: "…9x".into(),
        created_at: world.now,
        updated_at: world.now,
    }
}

pub async fn a_credential_is_replaced_and_keeps_its_id(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = credential(&world, "openai", &[0, 255, 7]);
    assert_eq!(store.put_credential(world.tenant, first.clone()).await.unwrap(), first);
    let second = Credential { updated_at: world.at(1), created_at: world.at(1), hint: "new".into(), ..credential(&world, "openai", &[]) };
    let kept = store.put_credential(world.tenant, second.clone()).await.unwrap();
    assert_eq!(kept, Credential { id: first.id, created_at: first.created_at, ..second });
    assert_eq!(store.list_credentials(world.tenant).await.unwrap(), [kept]);
}

pub async fn credentials_belong_to_their_tenant(site: Site) {
    let (world, store) = (world(), &site.store);
    for provider in ["zeta", "Alpha", "alpha"] {
        store.put_credential(world.tenant, credential(&world, provider, b"x")).await.unwrap();
    }
    store.put_credential(world.stranger, credential(&world, "alpha", b"y")).await.unwrap();
    let names: Vec<String> = store.list_credentials(world.tenant).await.unwrap().into_iter().map(|one| one.provider).collect();
    assert_eq!(names, ["Alpha", "alpha", "zeta"]);
    assert!(store.delete_credential(world.tenant, "alpha").await.unwrap());
    assert!(!store.delete_credential(world.tenant, "alpha").await.unwrap());
    assert_eq!(store.list_credentials(world.stranger).await.unwrap()[0].sealed, b"y");
}
