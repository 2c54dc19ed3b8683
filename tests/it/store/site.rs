//! Where a case runs: a fresh database of one kind, opened once or twice.

use std::future::Future;
use std::sync::Arc;

use dispatch::clock::Clock;
use dispatch::id::{NodeId, RunId, TenantId};
use dispatch::store::memory::MemoryStore;
use dispatch::store::postgres::PostgresStore;
use dispatch::store::sqlite::SqliteStore;
use dispatch::store::{SharedStore, Signal, Waits};
use parking_lot::Mutex;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

/// The server that tests use; `DISPATCH_TEST_POSTGRES_URL` names another.
const SERVER: &str = "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable";
const MISSING: &str = "these tests need a PostgreSQL server: start one, or name one in DISPATCH_TEST_POSTGRES_URL";
/// Pooled connections of one store; several tests share the server.
const CONNECTIONS: u32 = 4;

/// A kind of database.
#[derive(Clone, Copy)]
pub enum Kind {
    Memory,
    Sqlite,
    Postgres,
}

/// A fresh database.
pub struct Site {
    pub store: SharedStore,
    place: Place,
    others: Mutex<Vec<SharedStore>>,
}

enum Place {
    Memory,
    File { _folder: tempfile::TempDir },
    Schema(Schema),
}

impl Site {
    async fn new(kind: Kind) -> Self {
        let (store, place): (SharedStore, Place) = match kind {
            Kind::Memory => (Arc::new(MemoryStore::new()), Place::Memory),
            Kind::Sqlite => {
                let folder = tempfile::tempdir().unwrap();
                (Arc::new(SqliteStore::open(&folder.path().join("dispatch.db")).await.unwrap()), Place::File { _folder: folder })
            }
            Kind::Postgres => {
                let schema = Schema::create().await;
                (schema.open().await, Place::Schema(schema))
            }
        };
        Self { store, place, others: Mutex::default() }
    }

    /// A second node over the same database. Where only one process may write, it is the first one again.
    pub async fn other(&self) -> SharedStore {
        match &self.place {
            Place::Schema(schema) => {
                let store = schema.open().await;
                self.others.lock().push(store.clone());
                store
            }
            _ => self.store.clone(),
        }
    }

    async fn remove(&self) {
        let others = std::mem::take(&mut *self.others.lock());
        for store in others {
            store.close().await;
        }
        self.store.close().await;
        if let Place::Schema(schema) = &self.place {
            schema.remove().await;
        }
    }
}

/// A schema of its own on the server.
#[derive(Clone)]
pub struct Schema {
    server: String,
    name: String,
}

impl Schema {
    pub async fn create() -> Self {
        let server = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap_or_else(|_| SERVER.into());
        let name = format!("t_{}", NodeId::new(&Clock::system()).suffix());
        let schema = Self { server, name };
        schema.execute(format!("create schema {}", schema.name)).await;
        schema
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> url::Url {
        let mut url: url::Url = self.server.parse().unwrap();
        url.query_pairs_mut().append_pair("options[search_path]", &self.name);
        url
    }

    /// The address that stores open; their connections carry the schema's name.
    pub fn url(&self) -> String {
        let mut url = self.address();
        url.query_pairs_mut().append_pair("application_name", &self.name);
        url.into()
    }

    /// The same through another port of this machine.
    pub fn url_through(&self, port: u16) -> String {
        let mut url: url::Url = self.url().parse().unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(port)).unwrap();
        url.into()
    }

    /// Where the server listens.
    pub fn host(&self) -> std::net::SocketAddr {
        let url = self.address();
        let host = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        std::net::ToSocketAddrs::to_socket_addrs(&host).unwrap().next().unwrap()
    }

    pub async fn open(&self) -> SharedStore {
        Arc::new(PostgresStore::open(&self.url(), CONNECTIONS, Clock::system()).await.unwrap())
    }

    /// A connection with this schema's tables in view.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(self.address().as_str()).await.expect(MISSING)
    }

    /// A connection to the server.
    pub async fn server(&self) -> PgConnection {
        PgConnection::connect(&self.server).await.expect(MISSING)
    }

    /// Every row of every table, as text.
    pub async fn dump(&self) -> String {
        let mut connection = self.connect().await;
        let tables: Vec<String> = sqlx::query_scalar("select tablename from pg_tables where schemaname = $1")
            .bind(&self.name)
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let mut dump = String::new();
        for table in tables {
            let all = format!("select coalesce(string_agg(t::text, chr(10)), '') from \"{table}\" t");
            dump.push_str(&sqlx::query_scalar::<_, String>(AssertSqlSafe(all)).fetch_one(&mut connection).await.unwrap());
            dump.push('\n');
        }
        dump
    }

    async fn execute(&self, sql: String) {
        let mut server = self.server().await;
        server.execute(AssertSqlSafe(sql)).await.unwrap();
        server.close().await.unwrap();
    }

    pub async fn remove(&self) {
        self.execute(format!("drop schema {} cascade", self.name)).await;
    }
}

/// A database of its own on the server, for settings of a whole database.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// Creates one with these options of `create database`.
    pub async fn create(options: &str) -> Self {
        let server = std::env::var("DISPATCH_TEST_POSTGRES_URL").unwrap_or_else(|_| SERVER.into());
        let name = format!("d_{}", NodeId::new(&Clock::system()).suffix());
        let database = Self { server, name };
        database.execute(format!("create database {} {options}", database.name)).await;
        database
    }

    pub fn url(&self) -> String {
        let mut url: url::Url = self.server.parse().unwrap();
        url.set_path(&self.name);
        url.into()
    }

    pub async fn open(&self) -> SharedStore {
        Arc::new(PostgresStore::open(&self.url(), CONNECTIONS, Clock::system()).await.unwrap())
    }

    /// `alter database <it> ...`
    pub async fn alter(&self, change: &str) {
        self.execute(format!("alter database {} {change}", self.name)).await;
    }

    /// Terminates every connection to it.
    pub async fn cut(&self) {
        self.execute(format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{}'", self.name)).await;
    }

    async fn execute(&self, sql: String) {
        let mut server = PgConnection::connect(&self.server).await.expect(MISSING);
        server.execute(AssertSqlSafe(sql)).await.unwrap();
        server.close().await.unwrap();
    }

    pub async fn remove(&self) {
        self.execute(format!("drop database {} with (force)", self.name)).await;
    }
}

/// Returns the signals of a run with their payloads.
pub async fn kept_signals(store: &(impl Waits + ?Sized), tenant: TenantId, run: RunId) -> Vec<Signal> {
    let mut signals = Vec::new();
    for key in store.list_signals(tenant, run).await.unwrap() {
        signals.extend(store.find_signal(tenant, run, &key).await.unwrap());
    }
    signals
}

/// Runs a case and removes its database, also when it fails.
pub async fn run<F: Future<Output = ()> + Send + 'static>(kind: Kind, case: fn(Arc<Site>) -> F) {
    let site = Arc::new(Site::new(kind).await);
    let result = tokio::spawn(case(site.clone())).await;
    site.remove().await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic.into_panic());
    }
}
