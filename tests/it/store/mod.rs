//! The contract that every store passes: one list of cases, instantiated per database.

mod contract;
pub mod site;

/// Instantiates each case on each store.
macro_rules! contract {
    ($($noun:ident: [$($case:ident),* $(,)?]),* $(,)?) => {
        contract!(@on on_memory Memory $($noun [$($case)*])*);
        contract!(@on on_sqlite Sqlite $($noun [$($case)*])*);
        contract!(@on on_postgres Postgres $($noun [$($case)*])*);
    };
    (@on $module:ident $kind:ident $($noun:ident [$($case:ident)*])*) => {
        mod $module {
            $(mod $noun {
                use crate::store::{contract, site};
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $case() {
                        site::run(site::Kind::$kind, contract::$noun::$case).await;
                    }
                )*
            })*
        }
    };
}

contract! {
    basics: [
        a_run_is_created_committed_and_read,
        a_late_owner_is_refused,
        a_commit_whose_answer_was_lost_is_recognised,
        a_nudged_run_does_not_pause,
        waits_are_answered_once,
    ],
}
