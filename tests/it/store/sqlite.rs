//! What only SQLite has: its write-ahead log, and a file that others can open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dispatch::clock::Clock;
use dispatch::id::JobId;
use dispatch::model::RunState;
use dispatch::model::job::{Job, Placed};
use dispatch::store::sqlite::{MIGRATIONS, SqliteStore};
use dispatch::store::{Commit, JobClaim, JobTurns, NewJob, Options, Queue, RunDeletion, SharedStore, StoreError};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::contract::world::{done, world};

const MIB: u64 = 1024 * 1024;

async fn outsider(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).connect().await.unwrap()
}

async fn open(path: &Path) -> SharedStore {
    Arc::new(SqliteStore::open(path).await.unwrap())
}

fn wal(path: &Path) -> u64 {
    std::fs::metadata(path.with_extension("db-wal")).map_or(0, |file| file.len())
}

/// Writes so many MiB as commits and returns the largest size that the log had.
async fn write(store: &SharedStore, path: &Path, mebibytes: i64) -> u64 {
    let world = world();
    let run = world.start(store).await;
    // Just short of what is kept by content, so that each is written whole.
    let text = "x".repeat(32_000);
    let mut largest = 0;
    for number in 1..=mebibytes {
        let journal = (0..33).map(|turn| done(&format!("{number}/{turn}"), json!(text))).collect();
        world.done(store, Commit { journal, ..world.commit(run, number, RunState::Running) }).await;
        largest = largest.max(wal(path));
    }
    largest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn overlapping_readers_do_not_let_the_log_grow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    let readers: Vec<_> = (0..2)
        .map(|turn| {
            let path = path.clone();
            tokio::spawn(async move {
                let mut reader = outsider(&path).await;
                tokio::time::sleep(Duration::from_millis(turn * 40)).await;
                loop {
                    let mut open = reader.begin().await.unwrap();
                    sqlx::query("select count(*) from runs").fetch_one(&mut *open).await.unwrap();
                    // As long as a slow page of a large list: the other one begins before this one ends.
                    tokio::time::sleep(Duration::from_millis(80)).await;
                    open.commit().await.unwrap();
                }
            })
        })
        .collect();
    let largest = write(&store, &path, 70).await;
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    assert!(largest < 64 * MIB, "the log grew to {} MiB", largest / MIB);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_shrinks_when_a_stubborn_reader_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    let mut reader = outsider(&path).await;
    let mut held = reader.begin().await.unwrap();
    sqlx::query("select count(*) from runs").fetch_one(&mut *held).await.unwrap();
    let largest = write(&store, &path, 40).await;
    assert!(largest > 36 * MIB, "while it reads, what it reads cannot be dropped");
    held.commit().await.unwrap();
    write(&store, &path, 10).await;
    assert!(wal(&path) < 20 * MIB, "still {} MiB", wal(&path) / MIB);
    store.close().await;
    assert_eq!(wal(&path), 0, "closing leaves nothing to recover");
}

#[tokio::test]
async fn a_run_that_cannot_be_read_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    let world = world();
    let broken = world.create(&store, world.queued()).await;
    let sound = world.create(&store, world.queued()).await;
    let mut outsider = outsider(&path).await;
    sqlx::query("update runs set spent = '{' where id = $1").bind(broken.suffix()).execute(&mut outsider).await.unwrap();
    let leases = store.claim_runs(world.claim()).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.run.id).collect::<Vec<_>>(), [sound]);
    assert!(store.claim_runs(world.claim()).await.unwrap().is_empty(), "it is held back");
    let error = store.find_run(world.tenant, broken).await.unwrap_err();
    assert!(matches!(&error, StoreError::Broken { table: "runs", column: "spent", row, .. } if *row == broken.suffix()), "{error}");
}

#[tokio::test]
async fn a_job_that_cannot_be_read_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    let world = world();
    let mut ids = Vec::new();
    for name in ["broken", "sound"] {
        let order = serde_json::from_value(serde_json::json!({ "name": name, "payload": null, "maxRetries": 0 })).unwrap();
        let job = Job::new(JobId::from_u128(world.next()), world.tenant, Placed { queue: "default".into(), priority: 0, order }, world.now);
        ids.push(job.id);
        store.enqueue_job(NewJob { job, key: None }).await.unwrap();
    }
    let mut outsider = outsider(&path).await;
    sqlx::query("update jobs set body = '{' where id = $1").bind(ids[0].suffix()).execute(&mut outsider).await.unwrap();
    let claim =
        JobClaim { node: world.node, now: world.now, check_at: world.at(30), max: 10, except: Vec::new(), turns: JobTurns::default() };
    let claimed = store.claim_jobs(claim).await.unwrap();
    assert_eq!(claimed.jobs.iter().map(|claimed| claimed.job.id).collect::<Vec<_>>(), ids[1..]);
}

#[tokio::test]
async fn reads_that_are_given_up_take_nothing_from_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    let world = world();
    let run = world.start(&store).await;
    let journal = (0..500).map(|turn| done(&format!("{turn}"), json!(turn))).collect();
    world.done(&store, Commit { journal, ..world.commit(run, 1, RunState::Running) }).await;
    for polls in 0..200 {
        let mut given_up = Box::pin(store.read_journal(world.tenant, run));
        for _ in 0..polls % 7 {
            if futures_util::poll!(&mut given_up).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let reads = futures_util::future::join_all((0..50).map(|_| store.read_journal(world.tenant, run)));
    let reads = tokio::time::timeout(Duration::from_secs(20), reads).await.unwrap();
    assert!(reads.iter().all(|read| read.as_ref().is_ok_and(|journal| journal.len() == 500)));
    // Nobody holds an old state of the file: all of the log can go.
    let (busy, frames, gone): (i64, i64, i64) =
        sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut outsider(&path).await).await.unwrap();
    assert_eq!((busy, frames, gone), (0, 0, 0));
    tokio::time::timeout(Duration::from_secs(20), store.close()).await.unwrap();
    assert!(matches!(store.read_journal(world.tenant, run).await, Err(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    open(&path).await.close().await;
    let mut outsider = outsider(&path).await;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (99, 'later', true, x'00', 0)",
    )
    .execute(&mut outsider)
    .await
    .unwrap();
    let error = SqliteStore::open(&path).await.err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
}

#[tokio::test]
async fn a_database_is_opened_by_its_address() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("sqlite://{}", folder.path().join("dispatch.db").display());
    let store = dispatch::store::open(&address, Options::new(Clock::system())).await.unwrap();
    assert_eq!(store.name(), "sqlite");
    store.ping().await.unwrap();
    store.close().await;
    for wrong in ["mysql://root:secret@host/db", "dispatch.db", "sqlite://", "postgres://u:secret@[broken"] {
        let error = dispatch::store::open(wrong, Options::new(Clock::system())).await.err().unwrap();
        assert!(matches!(error, StoreError::Address(_)), "{wrong}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

/// The size in bytes beyond which the system takes no write of this process, which has the test to itself.
async fn limit_files(bytes: &str) {
    // A write that is too much fails; without a listener it ends the process.
    drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(25)).unwrap());
    let limit = ["--pid", &std::process::id().to_string(), &format!("--fsize={bytes}:")].map(str::to_owned);
    assert!(tokio::process::Command::new("prlimit").args(limit).status().await.unwrap().success());
}

#[tokio::test]
async fn a_disk_that_refuses_writes_is_told_and_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("dispatch.db")).await;
    let world = world();
    let queued = world.create(&store, world.queued()).await;
    limit_files("0").await;
    assert!(matches!(store.claim_runs(world.claim()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.create_run(world.queued()).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.ping().await, Err(StoreError::Unavailable(_))), "it takes no writes, and says so");
    assert!(store.find_run(world.tenant, queued).await.unwrap().is_some(), "it is read meanwhile");
    limit_files("unlimited").await;
    store.ping().await.unwrap();
    let leases = store.claim_runs(world.claim()).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.run.id).collect::<Vec<_>>(), [queued]);
    world.create(&store, world.queued()).await;
}

#[tokio::test]
async fn a_file_that_was_deleted_or_replaced_takes_no_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = SqliteStore::open_alone(&path).await.unwrap();
    let store: SharedStore = Arc::new(store);
    let world = world();
    world.create(&store, world.queued()).await;
    store.ping().await.unwrap();
    for file in [path.clone(), path.with_extension("db-wal")] {
        let aside = folder.path().join("aside");
        std::fs::rename(&file, &aside).unwrap();
        for replaced in [false, true] {
            if replaced {
                std::fs::copy(&aside, &file).unwrap();
            }
            let refused = store.create_run(world.queued()).await.unwrap_err();
            assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
            assert!(store.claim_runs(world.claim()).await.is_err() && store.put_queue(world.tenant, queue("q")).await.is_err());
            let unready = store.ping().await.unwrap_err();
            assert!(unready.public_reason().unwrap().contains("deleted or replaced"), "{unready}");
        }
        std::fs::rename(&aside, &file).unwrap();
        store.ping().await.unwrap();
        world.create(&store, world.queued()).await;
    }
    store.close().await;
}

#[tokio::test]
async fn a_file_that_took_the_place_of_ours_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    open(&at("stranger.db")).await.close().await;
    let store: SharedStore = Arc::new(SqliteStore::open_alone(&at("dispatch.db")).await.unwrap());
    let world = world();
    let run = world.create(&store, world.queued()).await;
    std::fs::rename(at("dispatch.db"), at("aside.db")).unwrap();
    std::fs::rename(at("stranger.db"), at("dispatch.db")).unwrap();
    // Nobody has read yet, so whoever reads now would connect to what is there.
    assert!(matches!(store.find_run(world.tenant, run).await, Err(StoreError::Unavailable(_))));
    std::fs::rename(at("aside.db"), at("dispatch.db")).unwrap();
    assert!(store.find_run(world.tenant, run).await.unwrap().is_some());
    store.close().await;
}

fn queue(name: &str) -> Queue {
    Queue { name: name.into(), rules: serde_json::from_value(json!({})).unwrap() }
}

#[tokio::test]
async fn one_file_has_one_server_under_every_name() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("elsewhere")).unwrap();
    let first = SqliteStore::open_alone(&at("dispatch.db")).await.unwrap();
    std::os::unix::fs::symlink(at("dispatch.db"), at("elsewhere/link.db")).unwrap();
    std::os::unix::fs::symlink(folder.path(), at("elsewhere/folder")).unwrap();
    std::fs::hard_link(at("dispatch.db"), at("elsewhere/hard.db")).unwrap();
    let others = ["dispatch.db", "elsewhere/link.db", "elsewhere/folder/dispatch.db", "elsewhere/hard.db"];
    for again in others {
        assert!(matches!(SqliteStore::open_alone(&at(again)).await, Err(StoreError::Taken(_))), "{again}");
    }
    std::fs::remove_file(at("dispatch.db.lock")).unwrap();
    for again in others {
        assert!(matches!(SqliteStore::open_alone(&at(again)).await, Err(StoreError::Taken(_))), "{again} without the lock file");
    }
    dispatch::store::Store::close(&first).await;
    drop(first);
    SqliteStore::open_alone(&at("elsewhere/link.db")).await.unwrap();
}

#[tokio::test]
async fn the_files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let modes = || {
        let names = ["dispatch.db", "dispatch.db-wal", "dispatch.db-shm", "dispatch.db.lock"];
        names.map(|name| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777)
    };
    let store = SqliteStore::open_alone(&path).await.unwrap();
    assert_eq!(modes(), [0o600; 4]);
    dispatch::store::Store::close(&store).await;
    drop(store);
    for name in ["dispatch.db", "dispatch.db.lock"] {
        std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o644)).unwrap();
    }
    let _store = SqliteStore::open_alone(&path).await.unwrap();
    assert_eq!(modes(), [0o600; 4], "what was open to others is not any more");
}

/// Overwrites every third page of a closed file, except the first one.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    for page in bytes.chunks_mut(4_096).skip(1).step_by(3) {
        page.fill(0xa5);
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_not_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    write(&store, &path, 4).await;
    store.close().await;
    drop(store);
    damage(&path);
    let error = SqliteStore::open_alone(&path).await.err().unwrap();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    let error = dispatch::error::Error::from(error);
    assert_eq!((error.code(), error.kind().exit_code()), ("database_corrupt", 2));
    std::fs::write(&path, "something else altogether, which is no database, but long enough to be looked at".repeat(100)).unwrap();
    assert!(matches!(SqliteStore::open_alone(&path).await, Err(StoreError::Corrupt { .. })));
}

#[tokio::test]
async fn damage_under_an_open_store_is_noticed() {
    use std::os::unix::fs::FileExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    write(&store, &path, 1).await;
    store.close().await;
    drop(store);
    // It has read the schema, and of the tables only what tells whether it can write.
    let store = open(&path).await;
    store.ping().await.unwrap();
    let pages = std::fs::metadata(&path).unwrap().len() / 4_096;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0xa5; usize::try_from(pages - 1).unwrap() * 4_096], 4_096).unwrap();
    // Closing it would release SQLite's locks.
    std::mem::forget(file);
    let world = world();
    let refused = store.create_run(world.queued()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    let unready = store.ping().await.unwrap_err();
    assert!(unready.public_reason().unwrap().contains("damaged"), "{unready}");
}

#[tokio::test]
async fn what_was_saved_before_agents_is_still_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).foreign_keys(true).connect().await.unwrap();
    let [before @ .., agents] = &MIGRATIONS[..3] else { unreachable!() };
    for (_, _, text) in before {
        sqlx::raw_sql(*text).execute(&mut old).await.unwrap();
    }
    let flow = "insert into flows values ('f', 't', 'Name', 'name', null, 'v', null, 1, 2); \
        insert into flow_versions values ('v', 'f', 1, '{}', 1, null);";
    sqlx::raw_sql(flow).execute(&mut old).await.unwrap();
    let mut open = old.begin().await.unwrap();
    sqlx::raw_sql(agents.2).execute(&mut *open).await.unwrap();
    open.commit().await.unwrap();
    let kept: (String, String, String) =
        sqlx::query_as("select f.kind, f.name, v.document from flows f join flow_versions v on v.flow = f.id")
            .fetch_one(&mut old)
            .await
            .unwrap();
    assert_eq!(kept, ("flow".into(), "Name".into(), "{}".into()));
    // Names are unique by kind now, and versions still go with their flow.
    let copy = |kind: &'static str, id: &'static str| {
        sqlx::query("insert into flows select $1, tenant, name, folded, description, current_version, published_version, created_at, updated_at, $2 from flows where id = 'f'")
            .bind(id)
            .bind(kind)
    };
    assert!(copy("flow", "g").execute(&mut old).await.is_err());
    copy("agent", "g").execute(&mut old).await.unwrap();
    sqlx::raw_sql("delete from flows where id = 'f'").execute(&mut old).await.unwrap();
    let left: i64 = sqlx::query_scalar("select count(*) from flow_versions").fetch_one(&mut old).await.unwrap();
    assert_eq!(left, 0);
}

/// The size of the file when nothing is in the log.
async fn size(path: &Path) -> u64 {
    sqlx::query("pragma wal_checkpoint(truncate)").execute(&mut outsider(path).await).await.unwrap();
    std::fs::metadata(path).unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_space_of_deleted_runs_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dispatch.db");
    let store = open(&path).await;
    let world = world();
    let text = "x".repeat(32_000);
    let mut runs = Vec::new();
    for _ in 0..10 {
        let run = world.start(&store).await;
        let journal = (0..33).map(|turn| done(&turn.to_string(), json!(text))).collect();
        world.done(&store, Commit { journal, ..world.commit(run, 1, RunState::Completed) }).await;
        runs.push(run);
    }
    let full = size(&path).await;
    assert!(full > 10 * MIB, "{full}");
    assert!(store.delete_runs(world.tenant, &runs).await.unwrap().iter().all(|deletion| *deletion == RunDeletion::Deleted(1)));
    assert!(size(&path).await > 10 * MIB, "deleting alone frees pages, not space");
    let mut released = 0;
    loop {
        match store.release_space(256).await.unwrap() {
            0 => break,
            bytes => released += bytes,
        }
    }
    let empty = size(&path).await;
    assert!(released > 9 * MIB && empty < 2 * MIB, "{released} bytes were given back, {empty} are left");
    store.close().await;
}
