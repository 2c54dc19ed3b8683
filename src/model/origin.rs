//! The request that started a run, for logs and traces. It is stored with the run, so that its request id and trace continue on
//! any node, after a pause and after a crash.

use std::future::Future;

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Origin {
    /// The request's id, the response's `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The parent of the run's spans, as a `traceparent` (<https://www.w3.org/TR/trace-context/>).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

tokio::task_local! {
    static ORIGIN: Origin;
}

impl Origin {
    /// Returns the origin for what this task starts.
    pub fn current() -> Option<Self> {
        ORIGIN.try_with(Clone::clone).ok()
    }

    /// Sets the origin for what is started while `future` is polled.
    pub async fn of<F: Future>(self, future: F) -> F::Output {
        ORIGIN.scope(self, future).await
    }

    /// Makes a span a child of this origin's span, if it has one and traces are recorded.
    pub fn adopt(&self, span: &Span) {
        if let Some(parent) = self.trace.as_deref().and_then(read) {
            // Fails only if the span is closed already, or no traces are recorded.
            let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        }
    }
}

/// Returns a span's `traceparent`; `None` if no traces are recorded.
pub fn place_of(span: &Span) -> Option<String> {
    let context = span.context();
    let place = context.span().span_context().clone();
    place.is_valid().then(|| format!("00-{}-{}-{:02x}", place.trace_id(), place.span_id(), place.trace_flags().to_u8()))
}

/// Returns whether a text is a valid `traceparent`.
pub fn is_place(text: &str) -> bool {
    read(text).is_some()
}

/// Parses a `traceparent`. Fields that a later version of the format appends are ignored.
fn read(text: &str) -> Option<SpanContext> {
    let mut parts = text.trim().split('-');
    let mut hex = |length: usize| {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == length && part.bytes().all(digits))
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let place = SpanContext::new(TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?, flags, true, TraceState::default());
    place.is_valid().then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_parsed_or_ignored() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let place = read(good).unwrap();
        assert_eq!((place.trace_id().to_string().as_str(), place.is_sampled()), ("4bf92f3577b34da6a3ce929d0e0e4736", true));
        assert!(is_place("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like"));
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert!(!is_place(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn tasks_know_their_origin() {
        assert_eq!(Origin::current(), None);
        let origin = Origin { request: Some("req_1".into()), trace: None };
        assert_eq!(origin.clone().of(async { Origin::current() }).await, Some(origin));
    }
}
