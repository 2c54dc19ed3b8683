//! What only PostgreSQL has: a server that goes away, answers that are lost on the wire, and other nodes.

use std::sync::Arc;
use std::time::Duration;

use dispatch::clock::Clock;
use dispatch::model::RunState;
use dispatch::store::postgres::PostgresStore;
use dispatch::store::{Commit, Committed, Created, NewRun, Options, Resolved, SharedStore, StoreError};
use futures_util::future::join_all;
use sqlx::Connection;

use super::contract::world::{World, world};
use super::pooler::Pooler;
use super::proxy::Proxy;
use super::site::{Database, Schema};

/// Runs a test in a schema of its own and drops it afterwards, also when the test fails.
async fn in_schema<F: Future<Output = ()> + Send + 'static>(test: impl FnOnce(Arc<Schema>) -> F) {
    let schema = Arc::new(Schema::create().await);
    let result = tokio::spawn(test(schema.clone())).await;
    schema.remove().await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic.into_panic());
    }
}

/// Runs a test in its own database and drops it afterwards, also if the test fails.
async fn in_database<F: Future<Output = ()> + Send + 'static>(options: &str, test: impl FnOnce(Arc<Database>) -> F) {
    let database = Arc::new(Database::create(options).await);
    let result = tokio::spawn(test(database.clone())).await;
    database.remove().await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic.into_panic());
    }
}

/// Cuts every connection that the schema's stores hold; how many.
async fn cut(schema: &Schema) -> usize {
    let mut server = schema.server().await;
    let cut = sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1")
        .bind(schema.name())
        .fetch_all(&mut server)
        .await
        .unwrap();
    server.close().await.unwrap();
    cut.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_survive_lost_connections() {
    in_schema(|schema| async move {
        let (world, store) = (Arc::new(world()), schema.open().await);
        let (said, mut progress) = tokio::sync::mpsc::unbounded_channel();
        let work: Vec<_> = (0..16)
            .map(|_| {
                let (world, store, said) = (world.clone(), store.clone(), said.clone());
                tokio::spawn(async move {
                    let run = world.start(&store).await;
                    for number in 1..=40 {
                        world.done(&store, world.commit(run, number, RunState::Running)).await;
                        said.send(()).unwrap();
                    }
                    run
                })
            })
            .collect();
        drop(said);
        // Cut again when the writer is back and at work: some groups are under way, some are being gathered.
        let (mut commits, mut cuts) = (0, 0);
        while progress.recv().await.is_some() {
            commits += 1;
            if commits % 32 == 0 {
                cuts += cut(&schema).await;
                while progress.try_recv().is_ok() {}
            }
        }
        assert!(cuts > 0);
        let runs: Vec<_> = join_all(work).await.into_iter().map(Result::unwrap).collect();
        store.close().await;
        let store = schema.open().await;
        for run in runs {
            assert_eq!(world.seqs(&store, run).await, (0..82).collect::<Vec<u64>>(), "each event once");
            assert_eq!(world.find(&store, run).await.commit, 40);
        }
        store.close().await;
    })
    .await;
}

/// Writes over several pooled connections concurrently, and with the group writer; returns how many writes were refused.
async fn refused_writes(world: &World, store: &SharedStore) -> usize {
    let pooled = join_all((0..8).map(|_| store.delete_credential(world.tenant, "nobody"))).await;
    let refused = |refused: bool| usize::from(refused);
    pooled.iter().map(|written| refused(written.is_err())).sum::<usize>() + refused(store.create_run(world.queued()).await.is_err())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_resume_after_a_fail_over() {
    in_database("", |database| async move {
        let (world, store) = (world(), database.open().await);
        assert_eq!(refused_writes(&world, &store).await, 0);
        // As on a demoted primary: new sessions are read-only, and stay so.
        database.alter("set default_transaction_read_only = on").await;
        database.cut().await;
        let down = async { while refused_writes(&world, &store).await < 9 {} };
        tokio::time::timeout(Duration::from_secs(20), down).await.unwrap();
        assert!(store.list_credentials(world.tenant).await.is_ok(), "it is read meanwhile");
        assert!(store.ping().await.is_err());
        database.alter("reset default_transaction_read_only").await;
        let up = async {
            let mut well = 0;
            while well < 20 {
                well = if refused_writes(&world, &store).await == 0 { well + 1 } else { 0 };
            }
        };
        tokio::time::timeout(Duration::from_secs(10), up).await.unwrap();
        store.ping().await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stricter_isolation_makes_no_write_fail() {
    in_database("", |database| async move {
        database.alter("set default_transaction_isolation = serializable").await;
        let (world, store) = (Arc::new(world()), database.open().await);
        let work: Vec<_> = (0..8)
            .map(|_| {
                let (world, store) = (world.clone(), store.clone());
                tokio::spawn(async move {
                    for _ in 0..40 {
                        world.create(&store, world.queued()).await;
                        store.claim_runs(world.claim()).await.unwrap();
                        store.next_wake(&[]).await.unwrap();
                    }
                })
            })
            .collect();
        join_all(work).await.into_iter().for_each(Result::unwrap);
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_database_that_is_not_utf8_is_refused() {
    in_database("encoding 'LATIN1' locale 'C' template template0", |database| async move {
        let error = PostgresStore::open(&database.url(), 2, Clock::system()).await.err().unwrap();
        assert!(matches!(&error, StoreError::Encoding(found) if found == "LATIN1"), "{error}");
        let error = dispatch::error::Error::from(error);
        assert_eq!((error.code(), error.kind().exit_code()), ("database_encoding_unsupported", 2));
    })
    .await;
}

#[tokio::test]
async fn a_pooler_that_shares_sessions_is_refused_and_named() {
    in_schema(|schema| async move {
        let pooler = Pooler::start(schema.host()).await;
        let error = PostgresStore::open(&schema.url_through(pooler.port()), 2, Clock::system()).await.err().unwrap();
        assert!(matches!(error, StoreError::Pooled), "{error}");
        let error = dispatch::error::Error::from(error);
        assert!(error.message().contains("transaction mode") && error.envelope().next.unwrap().contains("session mode"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_answer_was_lost_on_the_wire_is_recognised() {
    in_schema(|schema| async move {
        let proxy = Proxy::start(schema.host()).await;
        let store: SharedStore = Arc::new(PostgresStore::open(&schema.url_through(proxy.port()), 2, Clock::system()).await.unwrap());
        let world = world();
        world.start(&store).await;

        let new = NewRun { key: Some(world.key("k", "h")), ..world.leased() };
        let run = new.id;
        proxy.swallow_next_answer();
        assert_eq!(store.create_run(new).await.unwrap(), Created::New);
        assert_eq!(proxy.swallowed(), 1);

        let wait = world.wait(run);
        proxy.swallow_next_answer();
        world.done(&store, Commit { waits: vec![wait.clone()], ..world.commit(run, 1, RunState::Paused) }).await;
        assert_eq!(proxy.swallowed(), 2);

        proxy.swallow_next_answer();
        assert_eq!(store.resolve_waits(vec![world.answer(&wait, "yes")]).await.unwrap(), [Resolved::First], "its own answer");
        assert_eq!(proxy.swallowed(), 3);
        let before = Resolved::Before(world.resolution("yes"));
        assert_eq!(store.resolve_waits(vec![world.answer(&wait, "yes")]).await.unwrap(), [before]);
        store.close().await;

        let store = schema.open().await;
        let found = world.find(&store, run).await;
        assert_eq!((found.commit, found.nudges, world.seqs(&store, run).await.len()), (1, 1, 4), "everything happened once");
        store.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_hears_the_others_again_after_its_connection_was_cut() {
    in_schema(|schema| async move {
        let (world, here, there) = (world(), schema.open().await, schema.open().await);
        let mut bell = there.bell();
        cut(&schema).await;
        // What is said while nobody listens is lost; it is said until it is heard.
        let heard = async {
            loop {
                let run = tell(&world, &here).await;
                let ring = async { while bell.recv().await.unwrap().run != run {} };
                if tokio::time::timeout(Duration::from_millis(300), ring).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap();
        here.close().await;
        there.close().await;
    })
    .await;
}

async fn tell(world: &World, store: &SharedStore) -> dispatch::id::RunId {
    let run = world.start(store).await;
    assert_eq!(store.commit_run(world.commit(run, 1, RunState::Running)).await.unwrap(), Committed::Done);
    run
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_migrate_once() {
    in_schema(|schema| async move {
        let stores = join_all((0..5).map(|_| schema.open())).await;
        join_all(stores.iter().map(|store| store.close())).await;
        let mut outsider = schema.connect().await;
        let applied: i64 = sqlx::query_scalar("select count(*) from _sqlx_migrations").fetch_one(&mut outsider).await.unwrap();
        assert_eq!(applied, dispatch::store::postgres::MIGRATIONS.len() as i64);
        outsider.close().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    in_schema(|schema| async move {
        schema.open().await.close().await;
        let mut outsider = schema.connect().await;
        sqlx::query(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (99, 'later', true, '', 0)",
        )
        .execute(&mut outsider)
        .await
        .unwrap();
        outsider.close().await.unwrap();
        let error = dispatch::store::open(&schema.url(), Options::new(Clock::system())).await.err().unwrap();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_once() {
    let error =
        dispatch::store::open("postgres://nobody@127.0.0.1:1/none?sslmode=disable", Options::new(Clock::system())).await.err().unwrap();
    assert!(matches!(&error, StoreError::Unreachable { server, .. } if server == "127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_run_that_cannot_be_read_does_not_stop_the_others() {
    in_schema(|schema| async move {
        let (world, store) = (world(), schema.open().await);
        let broken = world.create(&store, world.queued()).await;
        let sound = world.create(&store, world.queued()).await;
        let mut outsider = schema.connect().await;
        sqlx::query("update runs set spent = '{' where id = $1").bind(broken.suffix()).execute(&mut outsider).await.unwrap();
        outsider.close().await.unwrap();
        let leases = store.claim_runs(world.claim()).await.unwrap();
        assert_eq!(leases.iter().map(|lease| lease.run.id).collect::<Vec<_>>(), [sound]);
        assert!(store.claim_runs(world.claim()).await.unwrap().is_empty(), "it is held back");
        assert!(matches!(store.find_run(world.tenant, broken).await, Err(StoreError::Broken { column: "spent", .. })));
        store.close().await;
    })
    .await;
}

/// Both databases have the same versions, tables and columns.
#[tokio::test]
async fn both_databases_have_one_schema() {
    let versions = |list: &[(i64, &str, &str)]| list.iter().map(|(version, name, _)| (*version, (*name).to_owned())).collect::<Vec<_>>();
    assert_eq!(versions(dispatch::store::sqlite::MIGRATIONS), versions(dispatch::store::postgres::MIGRATIONS));
    in_schema(|schema| async move {
        schema.open().await.close().await;
        let mut outsider = schema.connect().await;
        let there: Vec<(String, String, bool)> = sqlx::query_as(
            "select table_name::text, column_name::text, is_nullable = 'NO' from information_schema.columns \
             where table_schema = current_schema() and table_name not like '\\_%' order by table_name collate \"C\", ordinal_position",
        )
        .fetch_all(&mut outsider)
        .await
        .unwrap();
        outsider.close().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dispatch.db");
        dispatch::store::sqlite::SqliteStore::open(&path).await.unwrap();
        let mut file = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        let here: Vec<(String, String, bool)> = sqlx::query_as(
            "select m.name, c.name, c.\"notnull\" from sqlite_schema m join pragma_table_info(m.name) c \
             where m.type = 'table' and m.name not like '\\_%' escape '\\' and m.name not like 'sqlite%' order by m.name, c.cid",
        )
        .fetch_all(&mut file)
        .await
        .unwrap();
        assert!(here.len() > 80);
        assert_eq!(here, there);
    })
    .await;
}
