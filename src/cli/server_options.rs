//! The options of a server, as flags and environment variables.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::Config;
use crate::http::limits::Rate;
use crate::net::{AllowRule, Deadlines};
use crate::secret::Secret;

/// See the module.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// Address to listen on: an IP address or a host name, and a port.
    #[arg(long, env = "DISPATCH_LISTEN", default_value = "127.0.0.1:8080", value_parser = listen)]
    pub listen: String,
    /// Folder of the embedded database and the master key.
    #[arg(long, env = "DISPATCH_DATA", default_value = "dispatch-data")]
    pub data: PathBuf,
    /// `sqlite://path` or `postgres://user@host/database`; a SQLite file in the data folder when absent.
    #[arg(long, env = "DISPATCH_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Allow loopback targets, and let local/echo answer for models whose provider has no key.
    #[arg(long, env = "DISPATCH_DEV")]
    pub dev: bool,
    /// Open a private range to requests: `CIDR[:port]`; repeat or separate by commas.
    #[arg(long, env = "DISPATCH_ALLOW_PRIVATE", value_delimiter = ',')]
    pub allow_private: Vec<AllowRule>,
    /// A web origin that may call; repeat or separate by commas; `*` for any.
    #[arg(long, env = "DISPATCH_CORS_ORIGINS", value_delimiter = ',')]
    pub cors_origin: Vec<String>,
    /// Folder of model catalogue files (TOML) that extend or replace the built-in ones.
    #[arg(long, env = "DISPATCH_PROVIDERS")]
    pub providers: Option<PathBuf>,
    /// The provider that is asked for every model name that is not known, as `openrouter`.
    #[arg(long, env = "DISPATCH_DEFAULT_PROVIDER")]
    pub default_provider: Option<String>,
    /// A name of your own for a model: `NAME=provider/model`; repeat or separate by commas.
    #[arg(long, env = "DISPATCH_MODEL_ALIASES", value_parser = model_alias, value_delimiter = ',')]
    pub model_alias: Vec<(String, String)>,
    /// The mail server of `send-email`: `smtps://user:password@host`, or `smtp://host:587?tls=required`.
    #[arg(long, env = "DISPATCH_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<Secret>,
    /// The address that mail comes from; senders of other hosts are then refused.
    #[arg(long, env = "DISPATCH_MAIL_FROM")]
    pub mail_from: Option<String>,
    /// Where files are kept: a folder, or `s3://bucket/prefix` with the usual `AWS_…` variables; `assets` in the data folder when absent.
    #[arg(long, env = "DISPATCH_ASSETS")]
    pub assets: Option<String>,
    /// This server's address as readers of files know it, as `https://dispatch.example.com`.
    #[arg(long, env = "DISPATCH_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// A program that speaks MCP over its standard input and output and that tenants may have started: `NAME=PROGRAM ARGUMENT ...`; repeat.
    #[arg(long, value_parser = mcp_command)]
    pub mcp_command: Vec<(String, Vec<String>)>,
    /// Calls per second that one key may make; 0 lifts the limit.
    #[arg(long, env = "DISPATCH_RATE_LIMIT", default_value_t = 500)]
    pub rate_limit: u32,
    /// Seconds that a model's server may take to answer at all.
    #[arg(long, env = "DISPATCH_MODEL_FIRST_BYTE_SECONDS", default_value_t = 60)]
    pub model_first_byte_seconds: u64,
    /// Seconds that a model may be silent in the middle of its answer.
    #[arg(long, env = "DISPATCH_MODEL_IDLE_SECONDS", default_value_t = 30)]
    pub model_idle_seconds: u64,
    /// Seconds that one answer of a model may take.
    #[arg(long, env = "DISPATCH_MODEL_TOTAL_SECONDS", default_value_t = 600)]
    pub model_total_seconds: u64,
    /// Seconds that a lease on a run lasts without being renewed.
    #[arg(long, env = "DISPATCH_LEASE_SECONDS", default_value_t = 10)]
    pub lease_seconds: u64,
    /// Servers that an execution may lose in a row without progress before it fails.
    #[arg(long, env = "DISPATCH_MAX_RECOVERIES", default_value_t = 10)]
    pub max_recoveries: u32,
    /// Maximum number of concurrent connections; lower if the limit on open files requires it.
    #[arg(long, env = "DISPATCH_MAX_CONNECTIONS", default_value_t = 20_000)]
    pub max_connections: usize,
    /// Maximum number of connections from one address; a quarter of --max-connections when absent, 0 for no limit. Loopback
    /// addresses are not limited.
    #[arg(long, env = "DISPATCH_MAX_CONNECTIONS_PER_PEER")]
    pub max_connections_per_peer: Option<usize>,
    /// Time limit in seconds for printing one document.
    #[arg(long, env = "DISPATCH_PRINT_SECONDS", default_value_t = 30)]
    pub print_seconds: u64,
    /// Jobs that this server does at once for one tenant; a tenth more is left to tenants that have none in its hands.
    #[arg(long, env = "DISPATCH_JOBS_AT_ONCE", default_value_t = 100)]
    pub jobs_at_once: usize,
    /// Seconds that runs may take to end when the server stops.
    #[arg(long, env = "DISPATCH_GRACE_SECONDS", default_value_t = 5)]
    pub grace_seconds: u64,
    /// Seconds after an execution's end when the pieces of its texts are joined in its log; 0 keeps them for ever.
    #[arg(long, env = "DISPATCH_COMPACT_AFTER_SECONDS", default_value_t = 86_400)]
    pub compact_after_seconds: u64,
    /// The first tenant's key; the first start makes and prints one when absent.
    #[arg(env = "DISPATCH_API_KEY", long = "api-key", hide = true, hide_env_values = true)]
    pub api_key: Option<Secret>,
    /// 32 bytes as base64 or hex that seal stored secrets; made and kept in the data folder when absent.
    #[arg(env = "DISPATCH_MASTER_KEY", long = "master-key", hide = true, hide_env_values = true)]
    pub master_key: Option<Secret>,
}

impl ServerOptions {
    /// The server's configuration; provider keys and addresses come from `env`.
    pub fn config(self, env: HashMap<String, String>) -> Config {
        let rate = std::num::NonZeroU32::new(self.rate_limit)
            .map(|per_second| Rate { per_second, burst: per_second.saturating_mul(std::num::NonZeroU32::MIN.saturating_add(1)) });
        let mut config = Config::new(self.data).rate(rate);
        // A host name is resolved when the server starts to listen.
        if let Ok(address) = self.listen.parse::<SocketAddr>() {
            config.listen = address;
        }
        config.database_url = self.database_url;
        config.dev = self.dev;
        config.api_key = self.api_key;
        config.master_key = self.master_key;
        config.allow_private = self.allow_private;
        config.cors = self.cors_origin;
        config.providers = self.providers;
        config.default_provider = self.default_provider;
        config.model_aliases = self.model_alias.into_iter().collect();
        config.env = env;
        config.smtp_url = self.smtp_url;
        config.mail_from = self.mail_from;
        config.assets = self.assets;
        config.public_url = self.public_url;
        config.mcp_commands = self.mcp_command.into_iter().collect();
        config.model_deadlines = Deadlines {
            first_byte: Duration::from_secs(self.model_first_byte_seconds.max(1)),
            between_chunks: Duration::from_secs(self.model_idle_seconds.max(1)),
            total: Duration::from_secs(self.model_total_seconds.max(1)),
        };
        config.workers.lease = Duration::from_secs(self.lease_seconds.max(1));
        config.workers.max_recoveries = self.max_recoveries.max(1);
        config.connections.max_connections = self.max_connections.max(1);
        config.connections.max_per_peer = self.max_connections_per_peer;
        config.print_within = Duration::from_secs(self.print_seconds.max(1));
        config.jobs.at_once = self.jobs_at_once.max(1);
        config.grace = Duration::from_secs(self.grace_seconds);
        config.compact_after = (self.compact_after_seconds > 0).then(|| Duration::from_secs(self.compact_after_seconds));
        config
    }
}

/// Parses `HOST:PORT`.
fn listen(text: &str) -> Result<String, String> {
    let is_address = text.parse::<SocketAddr>().is_ok();
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let is_name = !host.is_empty() && !host.contains([':', '/', '[', ']', ' ']) && port.parse::<u16>().is_ok();
    if is_address || is_name {
        Ok(text.to_owned())
    } else {
        Err("expected HOST:PORT, for example 127.0.0.1:8080, [::1]:8080 or localhost:8080".into())
    }
}

/// `NAME=PROGRAM ARGUMENT ...`, separated by blanks.
fn model_alias(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, model)) if !name.trim().is_empty() && !model.trim().is_empty() => Ok((name.trim().to_owned(), model.trim().to_owned())),
        _ => Err("expected NAME=provider/model".into()),
    }
}

fn mcp_command(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, words) = text.split_once('=').ok_or("expected NAME=PROGRAM ARGUMENT ...")?;
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    if name.is_empty() || words.is_empty() {
        return Err("expected NAME=PROGRAM ARGUMENT ...".into());
    }
    Ok((name.to_owned(), words))
}
