//! Traces to an OpenTelemetry collector, as OTLP over HTTP.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{Protocol, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Handle;
use url::Url;
use uuid::Uuid;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::NodeId;
use crate::net;

/// Path of the traces receiver below a collector's base address.
const PATH: &str = "/v1/traces";

/// Returns a provider that sends spans to the collector at this base address. Call it within the runtime that will send them.
pub fn provider(address: &str) -> Result<SdkTracerProvider> {
    check(address)?;
    // The exporter's client uses the process's TLS provider when it is built, and panics if none is installed.
    net::install_tls();
    let inner = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}{PATH}", address.trim_end_matches('/')))
        .build()
        .map_err(|error| refused(address, &error.to_string()))?;
    let runtime = Handle::try_current().map_err(Error::internal)?;
    let exporter = Exporter { inner: Arc::new(inner), runtime };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource()).build())
}

/// Who sends the spans. One execution's may come from several servers, so each start of a server has an id of its own. What the operator says in
/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` goes before what is said here.
fn resource() -> Resource {
    let instance = Uuid::from_u128(NodeId::new(&Clock::system()).as_u128());
    let own = [
        KeyValue::new("service.name", "dispatch"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_string()),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// The operator chose the address, so it is checked for its form only, not for where it leads.
fn check(address: &str) -> Result<()> {
    let url = Url::parse(address).map_err(|error| refused(address, &error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refused(address, "it must begin with http:// or https:// and name a host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused(address, "it must not have a query or a fragment; set headers with OTEL_EXPORTER_OTLP_HEADERS"));
    }
    Ok(())
}

fn refused(address: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, "otlp_endpoint_invalid", format!("traces cannot be sent to `{address}`: {why}"))
        .next("give the base address of the collector's OTLP receiver for HTTP, for example --otlp-endpoint http://127.0.0.1:4318")
}

/// Sends batches on the runtime: the exporter's thread has none, and the HTTP client needs one.
#[derive(Debug)]
struct Exporter {
    inner: Arc<opentelemetry_otlp::SpanExporter>,
    runtime: Handle,
}

impl SpanExporter for Exporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let inner = self.inner.clone();
        let sent = self.runtime.spawn(async move { inner.export(batch).await });
        sent.await.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())))
    }

    fn set_resource(&mut self, resource: &Resource) {
        // Called before the first batch, when nothing else holds the client.
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.set_resource(resource);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_endpoints_are_refused() {
        for address in ["http://127.0.0.1:4318", "https://otel.example.com", "https://otel.example.com/tenants/7/"] {
            assert!(check(address).is_ok(), "{address}");
        }
        for address in ["", "localhost:4318", "collector", "ftp://x", "http://", "http://x/?key=1", "unix:/run/otel.sock"] {
            assert_eq!(check(address).map_err(|error| error.code().to_owned()), Err("otlp_endpoint_invalid".to_owned()), "{address}");
        }
    }
}
