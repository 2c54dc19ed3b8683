//! The spans of requests in the words of OpenTelemetry's conventions for HTTP servers
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>): a collector counts, names and times requests by them. Lines of the log keep the
//! shorter words that the code gives the span.

use opentelemetry::trace::{SpanBuilder, SpanKind, Tracer};
use opentelemetry::{Context, Key};

/// The span's name in the code, kept for a request that matched no route.
const REQUEST: &str = "request";
const UNMATCHED: &str = "unmatched";

/// Starts the spans of another tracer, those of requests in conventional words.
#[derive(Debug)]
pub struct RequestTracer<T>(pub T);

impl<T: Tracer> Tracer for RequestTracer<T> {
    type Span = T::Span;

    fn build_with_context(&self, builder: SpanBuilder, parent_cx: &Context) -> Self::Span {
        let builder = if builder.name == REQUEST { conventional(builder) } else { builder };
        self.0.build_with_context(builder, parent_cx)
    }
}

fn conventional(mut builder: SpanBuilder) -> SpanBuilder {
    let mut name = Vec::new();
    let mut attributes = builder.attributes.take().unwrap_or_default();
    attributes.retain(|attribute| attribute.key.as_str() != "route" || attribute.value.as_str() != UNMATCHED);
    for attribute in &mut attributes {
        let word = match attribute.key.as_str() {
            "method" => "http.request.method",
            "route" => "http.route",
            _ => continue,
        };
        name.push(attribute.value.as_str().into_owned());
        attribute.key = Key::from_static_str(word);
    }
    SpanBuilder { name: name.join(" ").into(), span_kind: Some(SpanKind::Server), attributes: Some(attributes), ..builder }
}

#[cfg(test)]
mod tests {
    use opentelemetry::KeyValue;

    use super::*;

    fn told(route: &'static str) -> SpanBuilder {
        let attributes = vec![KeyValue::new("method", "POST"), KeyValue::new("route", route), KeyValue::new("request_id", "req_1")];
        conventional(SpanBuilder { attributes: Some(attributes), ..SpanBuilder::from_name(REQUEST) })
    }

    #[test]
    fn a_request_is_told_in_the_words_of_the_conventions() {
        let found = told("/v1/dispatch");
        assert_eq!((&*found.name, found.span_kind), ("POST /v1/dispatch", Some(SpanKind::Server)));
        let expected = [("http.request.method", "POST"), ("http.route", "/v1/dispatch"), ("request_id", "req_1")];
        assert_eq!(found.attributes, Some(expected.map(|(key, value)| KeyValue::new(key, value)).to_vec()));
        let lost = told(UNMATCHED);
        assert_eq!(lost.name, "POST");
        assert!(!lost.attributes.unwrap().iter().any(|attribute| attribute.key.as_str() == "http.route"));
    }
}
