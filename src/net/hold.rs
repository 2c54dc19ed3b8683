//! What must still hold when a request leaves.
//!
//! Whoever owns a piece of work owns it for a while. Between the moment in which that was last looked at and the one in which a
//! request's bytes go out lies another task, that of the connection; a process that is stopped just there sends, when it goes on, what
//! somebody else has done meanwhile. So a request that is made [`under`] a hold asks once more, where its bytes are handed to
//! the socket. What has no body is not asked about: it asks for something and does nothing.
//!
//! Must not know: who holds what, and why.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

/// Something that lasts until it does not.
pub trait Hold: Send + Sync + 'static {
    fn lasts(&self) -> bool;
}

tokio::task_local! {
    static HELD: Arc<dyn Hold>;
}

/// Does the work; the requests that it makes leave only while `hold` lasts.
pub fn under<T>(hold: Arc<dyn Hold>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    HELD.scope(hold, work)
}

/// A request's bytes on their way out.
pub(super) fn guarded(bytes: Bytes) -> reqwest::Body {
    match HELD.try_with(Arc::clone) {
        Ok(hold) if !bytes.is_empty() => reqwest::Body::wrap(Guarded { bytes: Some(bytes), hold }),
        _ => bytes.into(),
    }
}

/// Whether what the caller works under lasts; so does nothing.
pub(super) fn lasts() -> bool {
    HELD.try_with(|hold| hold.lasts()).unwrap_or(true)
}

struct Guarded {
    bytes: Option<Bytes>,
    hold: Arc<dyn Hold>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Released;

    /// The connection writes the head together with the first piece of the body, so a refusal here keeps back both (HTTP/1.1), or ends
    /// the request before it is whole (HTTP/2).
    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Released>>> {
        let Some(bytes) = self.bytes.take() else { return Poll::Ready(None) };
        Poll::Ready(Some(if self.hold.lasts() { Ok(Frame::data(bytes)) } else { Err(Released) }))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
    }
}

/// The hold was over when the request was to leave. Nothing was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Released;

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this server stood still, and could not be sure any more that the request was its own to make")
    }
}

impl std::error::Error for Released {}
