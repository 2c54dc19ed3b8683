//! What the operator chooses, gathered for the parts; each part owns its own options.
//!
//! Must not know: how the parts are put together, where a value comes from.

mod limits;
pub mod number;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;

pub use limits::ServerLimits;

use crate::model::RetentionPolicy;
use crate::net::AllowRule;
use crate::secret::Secret;
use crate::tool::mcp::Commands;

/// The options of one server.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: SocketAddr,
    /// Holds the embedded database and the master key.
    pub data: PathBuf,
    /// `sqlite://path` or `postgres://...`; `dispatch.db` in the data folder when absent.
    pub database_url: Option<String>,
    /// Loopback targets are allowed, and models whose provider has no key are answered by `local/echo`.
    pub dev: bool,
    /// The first tenant's key; made and shown once when absent.
    pub api_key: Option<Secret>,
    /// Seals secrets; kept in the data folder when absent.
    pub master_key: Option<Secret>,
    /// A missing master key is made anew, although the database has data that is sealed under it.
    pub new_master_key: bool,
    pub allow_private: Vec<AllowRule>,
    /// Web origins that may call.
    pub cors: Vec<String>,
    /// A folder of model catalogue files that extend or replace the built-in ones.
    pub providers: Option<PathBuf>,
    /// The provider of every model name that is not known.
    pub default_provider: Option<String>,
    /// Names of the operator's own for models.
    pub model_aliases: BTreeMap<String, String>,
    /// Provider keys and addresses, by the names of environment variables.
    pub env: HashMap<String, String>,
    /// The operator's mail server, as `smtps://user:password@host`.
    pub smtp_url: Option<Secret>,
    /// The address that mail comes from.
    pub mail_from: Option<String>,
    /// Where files are kept: a folder, or `s3://bucket/prefix`; `assets` in the data folder when absent.
    pub assets: Option<String>,
    /// This server's address as readers of files know it; where it listens when absent.
    pub public_url: Option<String>,
    /// Programs that speak MCP and that tenants may have started, by name.
    pub mcp_commands: Commands,
    /// The program whose processes do what must be killed to be stopped, scripts and printing: this one.
    pub own_program: Option<PathBuf>,
    pub limits: ServerLimits,
    /// How long runs may take to end when the server shuts down.
    pub grace: std::time::Duration,
    /// How long after a run's end its log stays as it was told; `None`: for ever.
    pub compact_after: Option<std::time::Duration>,
    /// How long data is kept where a tenant does not say; for ever by default.
    pub retention: RetentionPolicy,
}

impl Config {
    /// Defaults around a data folder.
    pub fn new(data: PathBuf) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            data,
            database_url: None,
            dev: false,
            api_key: None,
            master_key: None,
            new_master_key: false,
            allow_private: Vec::new(),
            cors: Vec::new(),
            providers: None,
            default_provider: None,
            model_aliases: BTreeMap::new(),
            env: HashMap::new(),
            smtp_url: None,
            mail_from: None,
            assets: None,
            public_url: None,
            mcp_commands: Commands::new(),
            own_program: own_program(),
            limits: ServerLimits::default(),
            grace: std::time::Duration::from_secs(5),
            compact_after: Some(std::time::Duration::from_secs(24 * 3_600)),
            retention: RetentionPolicy::default(),
        }
    }
}

/// This program's file; where the system tells, also after another file has taken its place.
fn own_program() -> Option<PathBuf> {
    let itself = PathBuf::from("/proc/self/exe");
    if itself.exists() { Some(itself) } else { std::env::current_exe().ok() }
}
