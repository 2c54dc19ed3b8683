//! Logs to stderr, metrics for Prometheus, traces to an OpenTelemetry collector when one is named.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::http::observe;
use crate::{engine, queue};

static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The recorder's handle, installed at the first call; `None` when another recorder is installed.
pub fn metrics() -> Option<PrometheusHandle> {
    let install = || {
        let handle = PrometheusBuilder::new().install_recorder().ok()?;
        observe::describe();
        queue::describe();
        engine::describe();
        Some(handle)
    };
    METRICS.get_or_init(install).clone()
}

/// How logs are written.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// A filter as in `info,dispatch=debug`.
    pub filter: Option<String>,
    pub json: bool,
    /// An OTLP collector's address, for traces.
    pub otlp: Option<String>,
}

/// Flushes traces when it is dropped.
pub struct Telemetry(Option<SdkTracerProvider>);

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            let _ = provider.shutdown();
        }
    }
}

/// Installs logging and, if asked for, tracing. Call once.
pub fn install(options: &LogOptions) -> Telemetry {
    let filter = filter(options.filter.as_deref().unwrap_or("info")).and(without_addresses());
    let writer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if options.json { writer.json().boxed() } else { writer.compact().boxed() };
    let provider = options.otlp.as_deref().and_then(exporter);
    let tracer = provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("dispatch")));
    // What is logged inside a span leaves with its trace.
    let traces = tracer.map(|layer| layer.with_filter(without_addresses()));
    let _ = tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init();
    Telemetry(provider)
}

/// The libraries that log, below `warn`, what exchanges are made of: hosts, addresses, header fields, messages, texts of statements. A secret may be any of these.
const NETWORK_LIBRARIES: [&str; 13] = [
    "h2",
    "hickory_proto",
    "hickory_resolver",
    "hyper",
    "hyper_rustls",
    "hyper_util",
    "lettre",
    "object_store",
    "reqwest",
    "rmcp",
    "rustls",
    "sqlx",
    "tokio_rustls",
];

/// Lets warnings and errors of those libraries through, and nothing more. No setting lifts it: no secret is in a log at any level.
fn without_addresses() -> FilterFn {
    filter_fn(may_be_logged as fn(&Metadata<'_>) -> bool)
}

fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let library = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::WARN || !NETWORK_LIBRARIES.contains(&library)
}

/// The wanted filter. The MCP library tells of every refusal with what the caller sent: that is the caller's, so it is heard only when it is asked for by name.
fn filter(wanted: &str) -> EnvFilter {
    const QUIET: &str = "rmcp";
    let text = if wanted.contains(QUIET) { wanted.to_owned() } else { format!("{wanted},{QUIET}=error") };
    EnvFilter::try_new(text).unwrap_or_else(|_| EnvFilter::new(format!("info,{QUIET}=error")))
}

fn exporter(address: &str) -> Option<SdkTracerProvider> {
    use opentelemetry_otlp::WithExportConfig;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(format!("{}/v1/traces", address.trim_end_matches('/')))
        .build()
        .ok()?;
    let resource = opentelemetry_sdk::Resource::builder().with_service_name("dispatch").build();
    Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_tell_of_no_address_whatever_is_asked_for() {
        for wanted in ["trace", "reqwest::connect=trace,hyper_util=debug,h2=trace,sqlx::query=info"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
            let logs = tracing_subscriber::registry().with(layer.with_filter(filter(wanted).and(without_addresses())));
            tracing::subscriber::with_default(logs, || {
                tracing::debug!(target: "reqwest::connect", "starting new connection to canary.example.com");
                tracing::trace!(target: "hyper_util::client::legacy::connect::dns", "resolving canary.example.com");
                tracing::trace!(target: "h2::codec::framed_write", "send canary");
                tracing::info!(target: "sqlx::query", "select canary");
                tracing::warn!(target: "reqwest::connect", "something to know");
            });
            let text = String::from_utf8_lossy(&lines.0.lock()).into_owned();
            assert!(!text.contains("canary") && text.contains("something to know"), "{wanted}: {text}");
        }
    }
}
