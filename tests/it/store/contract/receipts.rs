//! Receipts: a repeated call creates nothing new, and a claimant that went away does not block the key.

use dispatch::store::{Answer, Begun, Receipt};
use futures_util::future::join_all;
use serde_json::json;

use super::Site;
use super::world::{World, world};

const ROUTE: &str = "POST /v1/flows";

fn receipt(world: &World, key: &str, seed: u128) -> Receipt {
    Receipt { route: ROUTE.into(), key: key.into(), request_hash: "h".into(), seed, lease_until: world.at(10), expires_at: world.at(3_600) }
}

fn answer() -> Answer {
    Answer { status: 201, body: json!({"z": "a\u{0}", "id": 1}) }
}

pub async fn an_answered_call_is_answered_again(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = receipt(&world, "k", u128::MAX);
    assert_eq!(store.begin_receipt(world.tenant, first.clone(), world.now).await.unwrap(), Begun::Mine { seed: u128::MAX });
    let busy = Begun::InProgress { request_hash: "h".into() };
    assert_eq!(store.begin_receipt(world.tenant, receipt(&world, "k", 2), world.at(9)).await.unwrap(), busy);
    store.file_answer(world.tenant, ROUTE, "k", answer()).await.unwrap();
    let told = Begun::Answered { request_hash: "h".into(), answer: answer() };
    assert_eq!(store.begin_receipt(world.tenant, receipt(&world, "k", 3), world.at(100)).await.unwrap(), told);
    let different = Receipt { request_hash: "other".into(), ..receipt(&world, "k", 4) };
    assert_eq!(store.begin_receipt(world.tenant, different, world.at(100)).await.unwrap(), told, "the caller compares the hash");
}

pub async fn a_claimant_that_went_away_is_replaced(site: Site) {
    let (world, store) = (world(), &site.store);
    store.begin_receipt(world.tenant, receipt(&world, "k", 77), world.now).await.unwrap();
    let different = Receipt { request_hash: "other".into(), ..receipt(&world, "k", 5) };
    let busy = Begun::InProgress { request_hash: "h".into() };
    assert_eq!(store.begin_receipt(world.tenant, different, world.at(11)).await.unwrap(), busy, "never by another request");
    let takeover = Receipt { lease_until: world.at(20), ..receipt(&world, "k", 6) };
    let begun = store.begin_receipt(world.tenant, takeover.clone(), world.at(10)).await.unwrap();
    assert_eq!(begun, Begun::Mine { seed: 77 }, "under the seed of the one before, so that the same thing is created");
    assert_eq!(store.begin_receipt(world.tenant, takeover, world.at(19)).await.unwrap(), busy, "the new lease holds");
}

pub async fn of_many_claims_at_once_one_is_taken(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let claims = async |now, lease_until| {
        let claims = (0..20).map(|turn| {
            let receipt = Receipt { lease_until, ..receipt(&world, "k", turn) };
            let store = if turn % 2 == 0 { store } else { &other };
            async move { store.begin_receipt(world.tenant, receipt, now).await.unwrap() }
        });
        let begun = join_all(claims).await;
        let mine: Vec<_> = begun.into_iter().filter(|begun| matches!(begun, Begun::Mine { .. })).collect();
        assert_eq!(mine.len(), 1);
        mine[0].clone()
    };
    let first = claims(world.now, world.at(10)).await;
    assert_eq!(claims(world.at(11), world.at(20)).await, first, "of many that take over as well");
}

pub async fn a_refused_call_frees_its_key(site: Site) {
    let (world, store) = (world(), &site.store);
    store.begin_receipt(world.tenant, receipt(&world, "k", 1), world.now).await.unwrap();
    store.drop_receipt(world.stranger, ROUTE, "k").await.unwrap();
    store.drop_receipt(world.tenant, "POST /other", "k").await.unwrap();
    assert!(matches!(store.begin_receipt(world.tenant, receipt(&world, "k", 2), world.now).await.unwrap(), Begun::InProgress { .. }));
    store.drop_receipt(world.tenant, ROUTE, "k").await.unwrap();
    assert_eq!(store.begin_receipt(world.tenant, receipt(&world, "k", 2), world.now).await.unwrap(), Begun::Mine { seed: 2 });
    store.file_answer(world.tenant, ROUTE, "k", answer()).await.unwrap();
    store.drop_receipt(world.tenant, ROUTE, "k").await.unwrap();
    let begun = store.begin_receipt(world.tenant, receipt(&world, "k", 3), world.now).await.unwrap();
    assert!(matches!(begun, Begun::Answered { .. }), "an answer is not dropped");
}

pub async fn receipts_belong_to_their_tenant_and_route(site: Site) {
    let (world, store) = (world(), &site.store);
    let elsewhere = Receipt { route: "POST /v1/records".into(), ..receipt(&world, "k", 3) };
    for (tenant, receipt) in [(world.tenant, receipt(&world, "k", 1)), (world.stranger, receipt(&world, "k", 2)), (world.tenant, elsewhere)]
    {
        let seed = receipt.seed;
        assert_eq!(store.begin_receipt(tenant, receipt, world.now).await.unwrap(), Begun::Mine { seed });
    }
    store.file_answer(world.stranger, ROUTE, "k", answer()).await.unwrap();
    let mine = store.begin_receipt(world.tenant, receipt(&world, "k", 9), world.now).await.unwrap();
    assert!(matches!(mine, Begun::InProgress { .. }));
}

pub async fn expired_receipts_are_forgotten(site: Site) {
    let (world, store) = (world(), &site.store);
    for key in ["a", "b"] {
        store.begin_receipt(world.tenant, receipt(&world, key, 1), world.now).await.unwrap();
        store.file_answer(world.tenant, ROUTE, key, answer()).await.unwrap();
    }
    let later = Receipt { expires_at: world.at(9_000), lease_until: world.at(3_700), ..receipt(&world, "a", 2) };
    assert_eq!(store.begin_receipt(world.tenant, later, world.at(3_600)).await.unwrap(), Begun::Mine { seed: 2 });
    assert_eq!(store.purge_receipts(world.at(3_599)).await.unwrap(), 0);
    assert_eq!(store.purge_receipts(world.at(3_600)).await.unwrap(), 1);
    let busy = store.begin_receipt(world.tenant, receipt(&world, "a", 3), world.at(3_601)).await.unwrap();
    assert!(matches!(busy, Begun::InProgress { .. }), "the fresh one stays");
}
