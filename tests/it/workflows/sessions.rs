//! Sessions: the handshake from the client's side, and what a session may do.

use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

use super::register;
use crate::support::call::Answer;
use crate::support::world::{KEY, Node, World};

on_both!(a_session_stands_for_its_key, handshakes_that_prove_nothing);

pub(super) async fn tenant(node: &Node) -> String {
    node.with_state(|state| async move { state.store.list_tenants().await.unwrap()[0].id.to_string() }).await
}

fn derive(secret: &[u8], salt: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(salt), secret).expand(info, &mut key).unwrap();
    key
}

async fn begin(node: &Node, tenant: &str, key: &str, public: &[u8; 32], nonce: &[u8; 16]) -> Answer {
    let body =
        json!({ "tenant_id": tenant, "api_key": key, "client_public_key": STANDARD.encode(public), "nonce": STANDARD.encode(nonce) });
    node.bare(Method::POST, "/api/session").json(&body).send().await
}

/// The whole handshake with a private key of the tenant's; the answer to its second half.
pub(super) async fn handshake(node: &Node, tenant: &str, key: &str, private: &[u8; 32]) -> (Value, Answer) {
    shake(node, tenant, key, private, None).await
}

/// A handshake that puts another private key in the place of one.
pub(super) async fn rotate(node: &Node, tenant: &str, key: &str, private: &[u8; 32], next: &[u8; 32]) -> Answer {
    shake(node, tenant, key, private, Some(next)).await.1
}

async fn shake(node: &Node, tenant: &str, key: &str, private: &[u8; 32], next: Option<&[u8; 32]>) -> (Value, Answer) {
    let (ours, nonce) = (StaticSecret::from([7; 32]), [3; 16]);
    // The handshake tells whose it is; clients that send the tenant again are served as well.
    let names_tenant = next.is_some();
    let begun = begin(node, tenant, key, PublicKey::from(&ours).as_bytes(), &nonce).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    let begun = begun.json();
    let bytes = |name: &str| STANDARD.decode(begun[name].as_str().unwrap()).unwrap();
    let theirs: [u8; 32] = bytes("server_public_key").try_into().unwrap();
    let shared = ours.diffie_hellman(&PublicKey::from(theirs));
    let salt = [nonce.as_slice(), &bytes("nonce")].concat();
    let session_key = derive(shared.as_bytes(), &salt, &[b"dispatched/session/v1", tenant.as_bytes()].concat());
    let id = begun["handshake_id"].as_str().unwrap();
    let seal = |private: &[u8; 32], nonce: [u8; 12], aad: &str| {
        // A client that never drew its key would send this.
        let unfilled = *private == [0; 32];
        let wrapping = if unfilled { [0; 32] } else { derive(private, tenant.as_bytes(), b"dispatched/wrap/v1") };
        let payload = Payload { msg: &wrapping, aad: aad.as_bytes() };
        let sealed = Aes256Gcm::new(&session_key.into()).encrypt(&nonce.into(), payload).unwrap();
        json!({ "nonce": STANDARD.encode(nonce), "ciphertext": STANDARD.encode(sealed) })
    };
    let mut body = json!({ "handshake_id": id, "sealed_key": seal(private, [9; 12], id) });
    if names_tenant {
        body["tenant_id"] = json!(tenant);
    }
    if let Some(next) = next {
        body["next_key"] = seal(next, [8; 12], &format!("{id}/next"));
    }
    let answer = node.bare(Method::POST, "/api/session/confirm").json(&body).send().await;
    (body, answer)
}

async fn a_session_stands_for_its_key(world: Arc<World>) {
    let node = world.node();
    let tenant = tenant(&node).await;
    let (body, answer) = handshake(&node, &tenant, KEY, &[1; 32]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = answer.json()["session"].as_str().unwrap().to_owned();
    assert!(token.starts_with("dst_sess_"));
    node.bare(Method::POST, "/api/session/confirm").json(&body).refused(401, "handshake_failed").await;
    register(&node, "mine", json!({ "a": { "wait": { "signal": "x" } } })).await;
    let with = |node: &Node, method: Method, path: &str| node.bare(method, path).header("dispatched-session", &token);
    assert_eq!(with(&node, Method::GET, "/api/workflows").ok().await["workflows"][0]["name"], "mine");
    assert_eq!(with(&node, Method::GET, "/api/session").ok().await["tenant_id"], json!(tenant));
    assert_eq!(node.bare(Method::GET, &format!("/api/runs?session={token}")).ok().await["runs"], json!([]));
    let other = "dst_sess_other";
    node.bare(Method::GET, &format!("/api/runs?session={other}"))
        .header("dispatched-session", &token)
        .refused(400, "ambiguous_credentials")
        .await;
    let node = world.crash().await;
    assert_eq!(with(&node, Method::GET, "/api/runs").send().await.status, 200, "it outlives the server");
    let (_, wrong) = handshake(&node, &tenant, KEY, &[2; 32]).await;
    wrong.refused(401, "handshake_failed");
    // It does not outlive its key.
    let scoped = world.key_with(&["FLOWS:READ", "API_KEYS:READ"]).await;
    let (_, answer) = handshake(&node, &tenant, &scoped, &[1; 32]).await;
    let second = answer.json()["session"].as_str().unwrap().to_owned();
    let using = |method: Method, path: &str| node.bare(method, path).header("dispatched-session", &second);
    using(Method::GET, "/api/secrets").refused(403, "missing_scope").await;
    assert_eq!(using(Method::GET, "/api/runs").send().await.status, 200);
    let keys = node.get("/v1/api-keys").ok().await;
    let id =
        keys["data"].as_array().unwrap_or_else(|| keys.as_array().unwrap()).iter().find(|key| key["name"] == "test").unwrap()["id"].clone();
    assert!(super::call(&node, Method::DELETE, &format!("/v1/api-keys/{}", id.as_str().unwrap())).send().await.status < 300);
    using(Method::GET, "/api/runs").refused(401, "invalid_session").await;
    assert_eq!(with(&node, Method::DELETE, "/api/session").send().await.status, 204);
    with(&node, Method::GET, "/api/runs").refused(401, "invalid_session").await;
    super::call(&node, Method::DELETE, "/api/session").refused(400, "no_session").await;
}

async fn handshakes_that_prove_nothing(world: Arc<World>) {
    let node = world.node();
    let tenant = tenant(&node).await;
    let public = *PublicKey::from(&StaticSecret::from([7; 32])).as_bytes();
    begin(&node, &tenant, "dsp_live_not_a_key_at_all", &public, &[0; 16]).await.refused(401, "invalid_api_key");
    let stranger = world.strangers_key().await;
    begin(&node, &tenant, &stranger, &public, &[0; 16]).await.refused(401, "handshake_failed");
    // A point of small order gives a secret that everybody knows.
    let zero = begin(&node, &tenant, KEY, &[0; 32], &[0; 16]).await.refused(400, "validation_failed");
    assert_eq!(zero.pointers(), ["/client_public_key"]);
    let short = json!({ "tenant_id": tenant, "api_key": KEY, "client_public_key": "AAAA", "nonce": "!" });
    let answer = node.bare(Method::POST, "/api/session").json(&short).refused(400, "validation_failed").await;
    assert_eq!(answer.pointers(), ["/client_public_key", "/nonce"]);
    let begun = begin(&node, &tenant, KEY, &public, &[0; 16]).await.json();
    let body = json!({
        "handshake_id": begun["handshake_id"], "tenant_id": tenant,
        "sealed_key": { "nonce": STANDARD.encode([0; 12]), "ciphertext": STANDARD.encode([0; 48]) },
    });
    node.bare(Method::POST, "/api/session/confirm").json(&body).refused(401, "handshake_failed").await;
    let zeros = handshake(&node, &tenant, KEY, &[0; 32]).await.1;
    assert_eq!(zeros.refused(400, "validation_failed").pointers(), ["/sealed_key"]);
    let without = node.bare(Method::POST, "/api/session/confirm").json(&json!({})).refused(400, "validation_failed").await;
    assert_eq!(without.pointers(), ["/handshake_id"]);
    let mut odd = body.clone();
    odd["handshake_id"] = json!("nothing-like-an-id");
    let odd = node.bare(Method::POST, "/api/session/confirm").json(&odd).refused(400, "validation_failed").await;
    assert_eq!(odd.pointers(), ["/handshake_id"]);
    node.bare(Method::POST, "/api/session").json(&json!({ "tenant_id": tenant })).refused(400, "validation_failed").await;
    // Another tenant than that of the first half.
    let begun = begin(&node, &tenant, KEY, &public, &[0; 16]).await.json();
    let mut foreign = body;
    foreign["handshake_id"] = begun["handshake_id"].clone();
    foreign["tenant_id"] = json!("tenant_01h455vb4pex5vsknk084sn02q");
    node.bare(Method::POST, "/api/session/confirm").json(&foreign).refused(401, "handshake_failed").await;
}
