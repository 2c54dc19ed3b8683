-- What retention looks up: ended runs by age, those whose log is still there, the children of a run, the keys of a run.
create index runs_ended on runs (tenant, finished_at, id) where finished_at is not null;
create index runs_with_log on runs (tenant, finished_at, id) where finished_at is not null and compacted < 2;
create index runs_parent on runs (parent_run) where parent_run is not null;
create index idempotency_subject on idempotency (subject);
create index jobs_ended on jobs (tenant, completed_at, id) where completed_at is not null;
-- Which rows refer to a blob: flows by their hash, texts as `@` and the hash. In the collation of hashes, or a comparison with one could not use them.
create index runs_flow on runs (flow_hash);
create index runs_input_blob on runs (input collate "C") where substr(input, 1, 1) = '@';
create index runs_output_blob on runs (output collate "C") where substr(output, 1, 1) = '@';
create index journal_blob on journal (outcome collate "C") where substr(outcome, 1, 1) = '@';
create index waits_shown_blob on waits (shown collate "C") where substr(shown, 1, 1) = '@';
create index waits_resolution_blob on waits (resolution collate "C") where substr(resolution, 1, 1) = '@';
-- Runs that pages began, with the bytes that they store: bounded for each client token. Weighed for the last time after their end.
create table page_runs (
    run text collate "C" primary key not null,
    tenant text collate "C" not null,
    token text collate "C" not null,
    bytes bigint not null,
    weighed bigint not null
);
create index page_runs_of_token on page_runs (tenant, token, bytes);
create index page_runs_to_weigh on page_runs (tenant, token, run) where weighed = 0;
