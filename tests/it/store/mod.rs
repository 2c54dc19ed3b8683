//! The contract that every store passes: one list of cases, instantiated per database.

mod contract;

use std::sync::Arc;

use dispatch::store::SharedStore;
use dispatch::store::sqlite::SqliteStore;

/// A store and what must live as long as it does.
pub struct Fixture {
    pub store: SharedStore,
    _folder: tempfile::TempDir,
}

async fn sqlite() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&folder.path().join("dispatch.db")).await.unwrap());
    Fixture { store, _folder: folder }
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test] async fn $case() { super::contract::$case(super::sqlite().await.store).await; })*
        }
    };
}

contract! {
    a_run_is_created_committed_and_read,
    a_late_owner_is_refused,
    a_commit_whose_answer_was_lost_is_recognised,
    a_nudged_run_does_not_pause,
    waits_are_answered_once,
}
