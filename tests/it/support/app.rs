//! A real server on the loopback interface, over a fresh SQLite store.

use std::net::SocketAddr;
use std::time::Duration;

use dispatch::app::App;
use dispatch::auth::KeyRequest;
use dispatch::clock::{Clock, Timestamp};
use dispatch::config::Config;
use dispatch::http::limits::LimitOptions;
use dispatch::http::serve::{ServeOptions, serve};
use dispatch::http::{AppState, HttpOptions, router};
use dispatch::id::{KeyId, TenantId};
use dispatch::model::wait::hex;
use dispatch::model::{Caller, Who};
use dispatch::secret::Secret;
use dispatch::store::{ApiKey, Tenant};
use reqwest::Method;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::call::{Call, client};

/// The server, its first key, and what lies behind it.
pub struct TestApp {
    pub address: SocketAddr,
    pub key: String,
    pub state: AppState,
    pub shutdown: CancellationToken,
    client: reqwest::Client,
    _folder: tempfile::TempDir,
}

/// How a test's server differs from the default one.
#[derive(Default)]
pub struct Setup {
    pub http: HttpOptions,
    pub limits: LimitOptions,
    pub serve: ServeOptions,
    pub preset: Option<Secret>,
    /// Loopback targets are allowed, and `local/echo` answers where a key is missing.
    pub dev: bool,
    /// Keys and addresses of providers, by the names of environment variables.
    pub env: std::collections::HashMap<String, String>,
}

impl TestApp {
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::system();
        let mut config = Config::new(folder.path().to_owned());
        config.own_program = Some(env!("CARGO_BIN_EXE_dispatch").into());
        config.limits.http = setup.limits;
        config.api_key = setup.preset.clone();
        config.dev = setup.dev;
        config.env = setup.env;
        let app = App::start(&config, clock.clone()).await.unwrap();
        let key = app.new_key.or(setup.preset).unwrap().expose().to_owned();
        let state = app.state;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, router(state.clone(), setup.http), clock, shutdown.clone(), setup.serve));
        Self { address, key, state, shutdown, client: client(), _folder: folder }
    }

    /// A call with no credentials.
    pub fn bare(&self, method: Method, path: &str) -> Call {
        Call::new(self.client.request(method, format!("http://{}{path}", self.address)))
    }

    /// A call with the first key.
    pub fn call(&self, method: Method, path: &str) -> Call {
        self.bare(method, path).bearer(&self.key)
    }

    pub fn get(&self, path: &str) -> Call {
        self.call(Method::GET, path)
    }

    pub fn post(&self, path: &str) -> Call {
        self.call(Method::POST, path)
    }

    pub fn put(&self, path: &str) -> Call {
        self.call(Method::PUT, path)
    }

    pub fn delete(&self, path: &str) -> Call {
        self.call(Method::DELETE, path)
    }

    /// The tenant of the first key.
    pub async fn tenant(&self) -> TenantId {
        self.state.store.list_tenants().await.unwrap()[0].id
    }

    /// A new key of the first tenant.
    pub async fn key_with(&self, scopes: &[&str]) -> (KeyId, String) {
        let caller = Caller { tenant: self.tenant().await, who: Who::Key(KeyId::from_u128(0)), scopes: vec!["*".into()] };
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let request = KeyRequest { id: KeyId::new(&self.state.clock), name: "test".into(), scopes, expires_at: None };
        let made = self.state.auth.create_key(&caller, request).await.unwrap();
        (made.row.id, made.key.expose().to_owned())
    }

    /// A key of the first tenant that expired a minute ago.
    pub async fn expired_key(&self) -> String {
        let row = self.row(self.tenant().await, "expired-key-of-a-test");
        let expires_at = Some(Timestamp::from_millis(self.state.clock.now().as_millis() - 60_000));
        self.state.store.create_key(ApiKey { expires_at, ..row }).await.unwrap();
        "expired-key-of-a-test".into()
    }

    /// A key of another tenant that may do everything there.
    pub async fn strangers_key(&self) -> String {
        let tenant = Tenant { id: TenantId::new(&self.state.clock), name: "stranger".into(), created_at: self.state.clock.now() };
        self.state.store.create_tenant(tenant.clone(), self.row(tenant.id, "key-of-a-stranger")).await.unwrap();
        "key-of-a-stranger".into()
    }

    fn row(&self, tenant: TenantId, key: &str) -> ApiKey {
        ApiKey {
            id: KeyId::new(&self.state.clock),
            tenant,
            name: "test".into(),
            hash: hex(&Sha256::digest(key)),
            hint: "test".into(),
            scopes: vec!["*".into()],
            created_at: self.state.clock.now(),
            expires_at: None,
            revoked_at: None,
        }
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// [`within`], for what takes its time.
pub async fn within_minutes<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), what).await.expect("took too long")
}

/// Fails a test that would otherwise hang.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what).await.expect("took too long")
}
