//! The model provider that runs are asked to use: the fake one, with its requests counted and its tool calls renamed.
//!
//! A real provider gives every answer's tool calls new ids. With ids that stay the same, a turn that was forgotten
//! and asked for again would look as if it had been remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::net::TcpListener;

use super::ledger::{Class, Fate, Ledger};
use crate::cli::fake_provider::{FakeOptions, router};

struct Counter {
    ledger: Arc<Ledger>,
    answers: AtomicU64,
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, ledger: Arc<Ledger>) {
    let counter = Arc::new(Counter { ledger, answers: AtomicU64::new(0) });
    let router = router(FakeOptions::default()).layer(from_fn_with_state(counter, count));
    let _ = axum::serve(listener, router).await;
}

async fn count(State(counter): State<Arc<Counter>>, request: Request, next: Next) -> Response {
    if let Some(key) = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok()) {
        counter.ledger.arrive(key, Class::Model, "model", |_| Fate::Performed);
    }
    let number = counter.answers.fetch_add(1, Ordering::Relaxed);
    let (mut head, body) = next.run(request).await.into_parts();
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Body::from_stream(body.into_data_stream().map(move |part| part.map(|part| rename(&part, number)))))
}

/// Each part is whole lines: the fake provider writes them one by one.
fn rename(part: &Bytes, number: u64) -> Bytes {
    String::from_utf8_lossy(part).replace("call_fake_", &format!("call_{number}_")).into()
}
