//! The options of a server, as flags and environment variables. `help_heading` is the table of the configuration file.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::numbers::NumberOptions;
use crate::config::Config;
use crate::model::RetentionKind;
use crate::net::AllowRule;
use crate::secret::Secret;

/// See the module.
#[derive(Debug, Args)]
pub struct ServerOptions {
    /// Address and port to listen on. The address may be a host name, as in `localhost:8080`.
    #[arg(long, env = "DISPATCH_LISTEN", default_value = "127.0.0.1:8080", value_parser = listen, help_heading = "server")]
    pub listen: String,
    /// Folder of the embedded database and the master key.
    #[arg(long, env = "DISPATCH_DATA", default_value = "dispatch-data", help_heading = "server")]
    pub data: PathBuf,
    /// The database: `sqlite://path`, or `postgres://user:password@host/database` (15 or newer) for several nodes; without encryption when
    /// that is on this machine and `sslmode` does not say `require`. The default is a SQLite file in the data folder.
    #[arg(long, env = "DISPATCH_DATABASE_URL", hide_env_values = true, help_heading = "server")]
    pub database_url: Option<String>,
    /// Loopback targets are allowed, and `local/echo` answers for unknown models and for those whose provider has no key. For development.
    #[arg(long, env = "DISPATCH_DEV", help_heading = "server")]
    pub dev: bool,
    /// Private ranges that flows may call, as `CIDR[:port]`: `10.1.0.0/16`, `10.1.2.3:8080`, `[fd00::1]/128:443`. Repeat, or separate by commas.
    #[arg(long, env = "DISPATCH_ALLOW_PRIVATE", value_delimiter = ',', help_heading = "server")]
    pub allow_private: Vec<AllowRule>,
    /// Web origins that may call: `app.example.com`, `https://app.example.com`, `localhost:3000`, `*.example.com`, `*`. Repeat, or separate by
    /// commas.
    #[arg(long, env = "DISPATCH_CORS_ORIGINS", value_delimiter = ',', help_heading = "http")]
    pub cors_origin: Vec<String>,
    /// A folder of model catalogue files (TOML) that extend or replace the built-in ones.
    #[arg(long, env = "DISPATCH_PROVIDERS", help_heading = "models")]
    pub providers: Option<PathBuf>,
    /// The provider of every model name that no provider knows, as `openrouter`.
    #[arg(long, env = "DISPATCH_DEFAULT_PROVIDER", help_heading = "models")]
    pub default_provider: Option<String>,
    /// A name of your own for a model: `fast=openai/gpt-5-mini`. Repeat, or separate by commas.
    #[arg(long, env = "DISPATCH_MODEL_ALIASES", value_parser = model_alias, value_delimiter = ',', help_heading = "models")]
    pub model_alias: Vec<(String, String)>,
    /// The mail server of `send-email`: `smtps://user:password@host`, `smtp://host:587?tls=required`, or `smtp://host:25` without encryption.
    #[arg(long, env = "DISPATCH_SMTP_URL", hide_env_values = true, help_heading = "mail")]
    pub smtp_url: Option<Secret>,
    /// The address that mail comes from; senders of other hosts are then refused.
    #[arg(long, env = "DISPATCH_MAIL_FROM", help_heading = "mail")]
    pub mail_from: Option<String>,
    /// Where files are kept: a folder, or `s3://bucket/prefix` with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` and, for servers
    /// that are not Amazon's, `AWS_ENDPOINT_URL`. The default is `assets` in the data folder. Nodes that share a database must share it.
    #[arg(long, env = "DISPATCH_ASSETS", help_heading = "server")]
    pub assets: Option<String>,
    /// This server's address in the URLs of files. The default is the address that it listens on.
    #[arg(long, env = "DISPATCH_PUBLIC_URL", help_heading = "server")]
    pub public_url: Option<String>,
    /// A program that speaks MCP over its standard input and output and that tenants may have started, as `NAME=PROGRAM ARGUMENT ...`. It gets
    /// no environment but `PATH`. Repeat.
    #[arg(long, value_parser = mcp_command, help_heading = "tools")]
    pub mcp_command: Vec<(String, Vec<String>)>,
    /// How long ended executions are kept with all that belongs to them, as in `30d` or `12h`; forever when absent. A tenant can set its own at
    /// `/v1/retention`.
    #[arg(long, env = "DISPATCH_RETAIN_EXECUTIONS", value_parser = retention_span, help_heading = "retention")]
    pub retain_executions: Option<Duration>,
    /// How long the events of ended executions are kept, except for the last ones.
    #[arg(long, env = "DISPATCH_RETAIN_EVENTS", value_parser = retention_span, help_heading = "retention")]
    pub retain_events: Option<Duration>,
    /// How long conversations of pages are kept after their last message.
    #[arg(long, env = "DISPATCH_RETAIN_CONVERSATIONS", value_parser = retention_span, help_heading = "retention")]
    pub retain_conversations: Option<Duration>,
    /// How long completed webhook deliveries are kept.
    #[arg(long, env = "DISPATCH_RETAIN_DELIVERIES", value_parser = retention_span, help_heading = "retention")]
    pub retain_deliveries: Option<Duration>,
    /// How long ended jobs are kept.
    #[arg(long, env = "DISPATCH_RETAIN_JOBS", value_parser = retention_span, help_heading = "retention")]
    pub retain_jobs: Option<Duration>,
    /// If the master key is lost, make a new one: what the old one seals (secrets, credentials, encrypted tenants) stays unreadable.
    #[arg(long)]
    pub new_master_key: bool,
    #[command(flatten)]
    pub numbers: NumberOptions,
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
        let mut config = Config::new(self.data);
        self.numbers.apply(&mut config);
        // A host name is resolved when the server starts to listen.
        if let Ok(address) = self.listen.parse::<SocketAddr>() {
            config.listen = address;
        }
        config.database_url = self.database_url;
        config.dev = self.dev;
        config.api_key = self.api_key;
        config.master_key = self.master_key;
        config.new_master_key = self.new_master_key;
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
        for (kind, span) in [
            (RetentionKind::Executions, self.retain_executions),
            (RetentionKind::Events, self.retain_events),
            (RetentionKind::Conversations, self.retain_conversations),
            (RetentionKind::Deliveries, self.retain_deliveries),
            (RetentionKind::Jobs, self.retain_jobs),
        ] {
            config.retention.set(kind, span);
        }
        config
    }
}

/// Parses a length of time, as in `30d`.
fn retention_span(text: &str) -> Result<Duration, String> {
    let span = crate::model::span::parse(text).filter(|span| !span.is_zero());
    span.ok_or_else(|| "expected a length of time, as in 30d, 12h or 45m".to_owned())
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
