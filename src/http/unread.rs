//! Request bodies that a handler answered without reading, as refusals do.
//!
//! A connection of HTTP/1 carries the next request only after the body of the last one. What is left of a short body is read and
//! dropped before the response goes out; with a longer one the response says `Connection: close`. Without either the server would
//! close the connection in silence, and a client that reuses it would lose its next request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderValue};
use axum::http::{HeaderMap, Version};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

/// Maximum size of a body, in bytes, that is read only to keep its connection.
const MAX_DRAINED: u64 = 64 * 1024;
/// Maximum time for which a response waits for such a body.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads what the handler left of the request's body, or announces that the connection ends.
pub async fn drain(request: Request, next: Next) -> Response {
    if request.version() > Version::HTTP_11 || request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_short = is_short(request.headers());
    let rest = Rest::default();
    let (parts, body) = request.into_parts();
    let body = Body::new(WatchedBody { body, is_read: false, rest: rest.clone() });
    let mut response = next.run(Request::from_parts(parts, body)).await;
    let unread = rest.lock().take();
    if let Some(unread) = unread
        && !(is_short && read_out(unread).await)
    {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the body is short by its head. A client that expects `100 Continue` has not begun to send it.
fn is_short(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= MAX_DRAINED) && !headers.contains_key(EXPECT)
}

async fn read_out(mut body: Body) -> bool {
    let all = async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DRAIN_TIMEOUT, all).await.unwrap_or(false)
}

/// Where a body goes that is dropped before its end.
type Rest = Arc<Mutex<Option<Body>>>;

/// A request body that is handed back when it is dropped before its end.
struct WatchedBody {
    body: Body,
    is_read: bool,
    rest: Rest,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = polled {
            self.is_read = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if !self.is_read && !self.body.is_end_stream() {
            *self.rest.lock() = Some(std::mem::take(&mut self.body));
        }
    }
}
