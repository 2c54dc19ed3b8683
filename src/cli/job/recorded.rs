//! A stand-in for the services that a run called: it gives the recorded responses again, on the loopback interface.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::Url;

use crate::cli::kit::{KitFault, KitResult};

/// Responses by method, path and query, in the order in which they came; the last one is given again and again.
type RecordedReplies = Mutex<HashMap<String, VecDeque<(u16, String)>>>;

/// The stand-in, until it is dropped.
pub struct RecordedServer {
    origin: String,
    serving: JoinHandle<()>,
}

impl RecordedServer {
    /// Serves the recorded calls of a run's folder.
    pub async fn start(folder: &Path, calls: &[Value]) -> KitResult<Self> {
        let mut replies = HashMap::<String, VecDeque<(u16, String)>>::new();
        for call in calls {
            let text = |name: &str| call.get(name).and_then(Value::as_str).unwrap_or_default();
            let Ok(url) = Url::parse(text("url")) else { continue };
            let body = std::fs::read_to_string(folder.join(text("responseFile"))).unwrap_or_default();
            let status = call.get("httpCode").and_then(Value::as_u64).and_then(|status| u16::try_from(status).ok()).unwrap_or_default();
            let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
            replies.entry(format!("{} {target}", text("method"))).or_default().push_back((status, body));
        }
        let failed = |error: std::io::Error| KitFault::runtime(format!("no port of the loopback interface is free: {error}"));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let origin = format!("http://{}", listener.local_addr().map_err(failed)?);
        let router = Router::new().fallback(answer).with_state(Arc::new(Mutex::new(replies)));
        let serving = tokio::spawn(async move {
            // It ends with the command; a connection that breaks is the caller's to notice.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { origin, serving })
    }

    /// The base URL that takes the place of `original`.
    pub fn base(&self, original: &Url) -> String {
        format!("{}{}", self.origin, original.path().trim_end_matches('/'))
    }
}

impl Drop for RecordedServer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(State(replies): State<Arc<RecordedReplies>>, method: Method, uri: Uri) -> Response {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut replies = replies.lock();
    let Some(queue) = replies.get_mut(&format!("{method} {target}")) else {
        let message = json!({ "error": format!("{method} {target} was not recorded") });
        return reply(StatusCode::NOT_IMPLEMENTED, message.to_string());
    };
    let next = if queue.len() > 1 { queue.pop_front() } else { queue.front().cloned() };
    let (status, body) = next.unwrap_or_default();
    // A call without a response was recorded with the status 0.
    reply(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), body)
}

fn reply(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
