//! The contract that every store passes: one list of cases, instantiated per database.

mod contract;
mod examine;
mod faulty;
mod pooler;
mod postgres;
mod proxy;
pub mod site;
mod sqlite;

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
    creations: [
        a_run_is_kept_as_it_was_created,
        nobody_else_sees_a_run,
        a_queued_run_is_due_at_once,
        a_repeated_creation_is_recognised,
        fifty_creations_under_one_key_make_one_run,
        a_key_belongs_to_its_tenant_and_route,
        an_expired_key_may_be_used_again,
        a_poisoned_creation_harms_no_neighbour,
    ],
    commits: [
        a_run_goes_from_commit_to_commit_to_its_end,
        the_log_is_read_in_whole_segments,
        a_commit_whose_answer_was_lost_is_recognised,
        a_commit_must_follow_its_predecessor,
        an_ended_or_paused_run_takes_no_commit,
        an_ended_run_is_never_due,
        a_nudged_run_does_not_pause,
        a_compensating_run_keeps_its_owner,
        an_entry_is_replaced_by_a_later_one,
        writes_about_one_run_stay_in_order_without_waiting,
        many_runs_commit_at_once,
        a_commit_whose_caller_went_away_is_whole_or_not_there,
    ],
    claims: [
        an_expired_lease_is_taken_over,
        owners_that_went_away_are_counted_until_the_run_gets_further,
        a_lease_tells_everything_that_is_needed_to_go_on,
        the_longest_due_run_is_claimed_first,
        one_run_can_be_claimed_by_name,
        runs_of_some_tenants_are_left_where_they_are,
        due_runs_of_tenants_take_turns,
        two_nodes_never_claim_the_same_run,
        leases_are_renewed_by_their_owner,
        a_lease_is_either_renewed_or_taken_over,
    ],
    cancels: [
        a_cancel_reaches_a_run_in_every_state,
        the_owner_learns_of_a_cancel,
        nobody_cancels_or_wakes_a_stranger_s_run,
        a_woken_run_is_due,
    ],
    waits: [
        the_first_answer_is_final,
        a_wait_is_kept_as_it_was_asked,
        waits_are_read_in_the_order_of_their_ids,
        nobody_sees_or_answers_a_stranger_s_wait,
        answers_in_one_call_stand_alone,
        of_many_answers_at_once_one_wins,
        waits_close_when_their_run_ends,
        an_answer_nudges_a_run_that_is_held,
        an_answer_keeps_an_earlier_wake_up,
        a_timeout_is_an_answer,
    ],
    children: [
        a_child_s_end_wakes_its_parent,
        a_child_that_lost_its_run_answers_nothing,
        a_child_answers_no_stranger_s_wait,
        many_children_end_at_once,
    ],
    signals: [
        a_signal_before_its_wait_is_kept,
        a_signal_after_its_wait_makes_the_run_due,
        signals_stay_in_the_order_of_arrival,
        the_same_delivery_is_one_signal,
        an_ended_run_takes_no_signal,
        nobody_signals_or_reads_a_stranger_s_run,
        one_signal_is_read_without_the_others,
        a_run_keeps_so_many_signals_and_no_more,
        a_run_keeps_so_many_bytes_of_signals_and_no_more,
    ],
    races: [
        an_answer_is_never_lost_to_a_pause,
        a_cancel_is_never_lost_to_a_pause,
        a_signal_is_never_lost_to_a_pause,
        crossing_groups_do_not_block_each_other,
    ],
    payloads: [
        documents_come_back_as_they_went_in,
        large_values_come_back_whole,
        equal_large_values_are_shared_by_many_runs,
        heavy_commits_fit_beside_each_other,
    ],
    lists: [
        runs_are_listed_newest_first_in_pages,
        runs_are_found_by_how_they_came_out,
        the_journal_is_in_byte_order,
        a_run_that_nobody_can_wake_is_found,
        a_log_is_made_small_once_and_after_its_end,
    ],
    flows: [
        a_flow_is_kept_with_its_versions,
        a_flow_s_name_is_taken_once_per_tenant,
        an_update_of_a_moved_flow_is_refused,
        versions_written_at_once_get_numbers_of_their_own,
        flows_are_searched_in_any_case_and_paged,
        an_agent_is_no_flow,
        a_version_is_published,
        a_version_is_deleted_unless_it_is_in_use,
        a_deleted_flow_takes_its_versions_along,
        nobody_reaches_a_stranger_s_flow,
    ],
    records: [
        a_record_is_kept_as_it_was_saved,
        a_type_and_name_are_taken_once_per_tenant,
        a_record_is_replaced_only_as_it_was_read,
        records_are_queried_in_stable_pages,
        records_are_deleted_by_their_owner,
    ],
    retention: [
        an_ended_run_is_deleted_with_all_of_it,
        what_goes_on_is_not_deleted,
        a_run_is_deleted_with_those_that_it_began,
        ended_runs_are_listed_by_their_end,
        logs_are_deleted_except_for_their_end,
        texts_that_nothing_uses_are_deleted,
        old_jobs_and_documents_are_found,
    ],
    accounts: [
        the_first_tenant_is_created_once,
        tenants_are_listed_oldest_first,
        a_key_is_found_by_its_hash,
        a_key_is_revoked_by_its_tenant,
    ],
    documents: [
        a_document_is_kept_changed_and_deleted,
        of_many_changes_at_once_one_is_made,
        documents_are_listed_newest_first_in_pages,
        what_is_due_is_found_for_every_tenant,
        nobody_reaches_a_stranger_s_document,
        the_oldest_documents_are_trimmed,
        a_nul_in_a_place_is_refused,
    ],
    secrets: [
        a_secret_is_kept_changed_and_deleted,
        nobody_reaches_a_stranger_s_secret,
    ],
    vault: [
        a_credential_is_replaced_and_keeps_its_id,
        credentials_belong_to_their_tenant,
    ],
    vectors: [
        the_nearest_come_first,
        a_name_is_one_vector,
        vectors_are_deleted_by_id_by_name_and_all,
        nobody_finds_a_stranger_s_vector,
        a_nul_is_refused_and_nothing_is_kept,
    ],
    jobs: [
        a_job_goes_from_its_queue_to_its_end,
        jobs_of_some_tenants_do_not_begin,
        a_failure_is_retried_when_its_time_comes,
        the_higher_priority_goes_first_then_the_longer_due,
        each_tenant_has_its_turn_whatever_the_priorities,
        who_has_more_in_hand_comes_later,
        what_one_tenants_queues_hold_back_is_nobody_elses_turn,
        two_nodes_never_take_one_job_nor_more_than_a_queue_allows,
        an_organisation_and_a_rate_have_limits_too,
        what_is_full_hides_nothing_behind_it,
        an_attempt_that_nobody_speaks_of_is_looked_after_ever_more_seldom,
        an_end_is_never_lost_to_a_look,
        a_run_s_end_is_its_job_s,
        a_job_whose_run_was_to_be_cancelled_is_not_tried_again,
        the_same_key_is_the_same_job,
        jobs_are_listed_counted_moved_and_deleted,
        a_dead_job_rises_by_itself_or_as_another,
        a_nul_in_a_job_is_refused,
    ],
    receipts: [
        an_answered_call_is_answered_again,
        a_claimant_that_went_away_is_replaced,
        of_many_claims_at_once_one_is_taken,
        a_refused_call_frees_its_key,
        receipts_belong_to_their_tenant_and_route,
        expired_receipts_are_forgotten,
    ],
    quotas: [
        limits_are_kept_replaced_and_removed,
        a_counter_stops_at_its_cap,
        counters_are_raised_together_or_not_at_all,
        a_new_counter_begins_with_what_was_used,
        executions_at_the_same_time_are_counted_by_their_rows,
        counters_whose_time_is_over_are_forgotten,
    ],
    usage: [
        a_commit_adds_its_usage_once,
        usage_is_told_apart_as_asked,
    ],
    bell: [
        it_rings_for_what_becomes_due,
        it_rings_for_no_stranger,
        it_rings_elsewhere_when_a_log_grows,
    ],
    text: [
        a_nul_in_a_run_is_refused,
        a_nul_in_a_name_is_refused,
        a_nul_finds_nothing,
    ],
}
