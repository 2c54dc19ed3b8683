//! Logs to stderr, metrics for Prometheus, traces to an OpenTelemetry collector when one is named.

use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
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
    let filter = filter(options.filter.as_deref().unwrap_or("info"));
    let writer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let logs = if options.json { writer.json().boxed() } else { writer.compact().boxed() };
    let provider = options.otlp.as_deref().and_then(exporter);
    let traces = provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("dispatch")));
    let _ = tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init();
    Telemetry(provider)
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
