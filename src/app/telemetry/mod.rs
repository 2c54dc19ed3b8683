//! Logs to stderr, metrics for Prometheus, and traces to an OpenTelemetry collector if one is configured.

mod requests;
mod traces;

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use self::requests::RequestTracer;
use crate::error::{Error, Kind, Result};
use crate::http::observe;
use crate::{engine, queue};

static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Bucket bounds of the histograms, in seconds. The upper ones are for model calls.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const MODEL_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Returns the recorder's handle, installing it on the first call; `None` if another recorder is installed.
pub fn metrics() -> Option<PrometheusHandle> {
    let install = || {
        let models = Matcher::Full("dispatch_model_call_seconds".into());
        let builder = PrometheusBuilder::new().set_buckets(SECONDS).ok()?.set_buckets_for_metric(models, MODEL_SECONDS).ok()?;
        let handle = builder.install_recorder().ok()?;
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
    /// A filter such as `info,dispatch=debug`.
    pub filter: Option<String>,
    pub json: bool,
    /// The address of an OTLP collector for traces.
    pub otlp: Option<String>,
}

/// Flushes traces when it is dropped.
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    filter: LogFilter,
}

impl Telemetry {
    /// Returns the filter of the log, to change it.
    pub fn log_filter(&self) -> LogFilter {
        self.filter.clone()
    }
}

/// The filter of the log of a running process.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// Replaces the filter. Error: `log_filter_invalid`.
    pub fn set(&self, wanted: &str) -> Result<()> {
        self.0.reload(filter(wanted)?).map_err(Error::internal)
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.traces
            && let Err(error) = provider.shutdown()
        {
            tracing::warn!(%error, "failed to send the last traces");
        }
    }
}

/// Installs logging and, if an endpoint is given, tracing. Call once.
pub fn install(options: &LogOptions) -> Result<Telemetry> {
    let (filter, handle) = reload::Layer::new(filter(options.filter.as_deref().unwrap_or("info"))?);
    let filter = filter.and(without_addresses());
    let writer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(use_colours());
    let logs = if options.json { writer.json().boxed() } else { writer.compact().boxed() };
    // An empty variable counts as not set.
    let provider = options.otlp.as_deref().filter(|address| !address.is_empty()).map(traces::provider).transpose()?;
    // Only this program's own spans and events: the exporter's connections are not traced. Detailed spans have the level `DEBUG`.
    let told = |about: &Metadata<'_>| about.target().starts_with("dispatch") && (about.is_span() || *about.level() <= Level::INFO);
    let own = filter_fn(told).with_max_level_hint(Level::DEBUG);
    // Source locations and thread ids add nothing: most spans are created in one file, and futures move between threads.
    let traces = provider.as_ref().map(|provider| {
        let spans = tracing_opentelemetry::layer().with_location(false).with_threads(false).with_target(false);
        spans.with_tracer(RequestTracer(provider.tracer("dispatch"))).with_filter(own)
    });
    let _ = tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init();
    Ok(Telemetry { traces: provider, filter: LogFilter(handle) })
}

/// Colour codes are for terminals only.
fn use_colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Libraries whose levels below `WARN` log hosts, addresses, header fields, messages or SQL. Any of these may contain a secret.
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

/// Lets only warnings and errors of those libraries through. No setting overrides it, so that secrets stay out of the log at every level.
fn without_addresses() -> FilterFn {
    filter_fn(may_be_logged as fn(&Metadata<'_>) -> bool)
}

fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let library = metadata.target().split("::").next().unwrap_or_default();
    *metadata.level() <= Level::WARN || !NETWORK_LIBRARIES.contains(&library)
}

/// Checks that a text is a log filter. Error: `log_filter_invalid`.
pub fn check_filter(wanted: &str) -> Result<()> {
    filter(wanted).map(drop)
}

/// Parses the requested filter. The MCP library logs tenants' mistakes as its own errors, with the content of their messages,
/// so it is silent unless `debug`, `trace` or the library itself is requested.
fn filter(wanted: &str) -> Result<EnvFilter> {
    const QUIET: &str = "rmcp";
    let heard = wanted.contains(QUIET) || wanted.split(',').any(|part| matches!(part.trim(), "debug" | "trace"));
    let text = if heard { wanted.to_owned() } else { format!("{wanted},{QUIET}=off") };
    EnvFilter::try_new(text).map_err(|error| {
        Error::new(Kind::Invalid, "log_filter_invalid", format!("`{wanted}` is not a log filter: {error}"))
            .next("give a level, or levels by module, for example --log info,dispatch=debug")
    })
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
    fn network_libraries_log_no_addresses_at_any_level() {
        for wanted in ["trace", "reqwest::connect=trace,hyper_util=debug,h2=trace,sqlx::query=info"] {
            let lines = Lines::default();
            let writer = lines.clone();
            let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
            let logs = tracing_subscriber::registry().with(layer.with_filter(filter(wanted).unwrap().and(without_addresses())));
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

    #[test]
    fn the_mcp_library_is_quiet_unless_it_is_asked_for() {
        for (wanted, quiet) in [("info", true), ("off", true), ("info,dispatch=debug", true), ("debug", false), ("info,rmcp=warn", false)] {
            assert_eq!(filter(wanted).unwrap().to_string().contains("rmcp=off"), quiet, "{wanted}");
        }
        assert_eq!(filter("dispatch=loud").map(drop).map_err(|error| error.code().to_owned()), Err("log_filter_invalid".to_owned()));
    }
}
