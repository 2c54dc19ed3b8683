//! The outside world that flows act on: an HTTP server that counts every effect, and misbehaves on request.
//!
//! `/CLASS/BEHAVIOUR/TAG/LABEL`: the class is `put` (honours keys) or `once`; behaviours:
//!
//! | name | what happens |
//! |---|---|
//! | `ok` | the effect, then the answer |
//! | `slow-MS` | the effect, the wait, then the answer |
//! | `flaky` | the first request with a key is refused with 503 before anything happens |
//! | `drop` | the first request with a key takes effect, and the connection breaks without an answer |
//! | `gone` | 404, nothing happens |
//!
//! `/told/ok/TAG` takes webhooks, and notes which runs they are about.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde_json::json;
use tokio::net::TcpListener;

use super::ledger::{Class, Fate, Ledger};
use crate::clock::Clock;

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, ledger: Arc<Ledger>, clock: Clock) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            clock.sleep(Duration::from_millis(20)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (ledger, clock) = (ledger.clone(), clock.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(ledger.clone(), clock.clone(), request));
            // An error is a connection that broke, on purpose or with the server under test.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The body of the answer to an effect.
pub fn answer_of(effect: &str) -> serde_json::Value {
    json!({ "effect": effect })
}

async fn answer(ledger: Arc<Ledger>, clock: Clock, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    // A request that broke off did not arrive.
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut parts = head.uri.path().trim_start_matches('/').splitn(3, '/');
    let (class, behaviour, effect) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if class == "told" {
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        ledger.tell(effect, body.pointer("/data/run/id").and_then(serde_json::Value::as_str).unwrap_or_default());
        return Ok(Response::new(Full::default()));
    }
    let class = if class == "once" { Class::Once } else { Class::Idempotent };
    let key = head.headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or("(no key)");
    let before = ledger.arrive(key, class, effect, |before| match behaviour {
        "gone" => Fate::Refused,
        "flaky" if before == 0 => Fate::Refused,
        _ => Fate::Performed,
    });
    let status = match behaviour {
        "gone" => StatusCode::NOT_FOUND,
        "flaky" if before == 0 => StatusCode::SERVICE_UNAVAILABLE,
        "drop" if before == 0 => return Err(io::Error::other("dropped on purpose")),
        _ => StatusCode::OK,
    };
    if let Some(wait) = behaviour.strip_prefix("slow-").and_then(|wait| wait.parse().ok()) {
        clock.sleep(Duration::from_millis(wait)).await;
    }
    let mut response = Response::new(Full::from(answer_of(effect).to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(response)
}
