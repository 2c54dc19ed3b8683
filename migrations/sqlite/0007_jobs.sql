-- Jobs. One whose time has come is `ready`; one that runs is looked after at `check_at`, unless its run ends it before.
create table jobs (
    id text primary key not null,
    tenant text not null,
    queue text not null,
    org text not null,
    name text not null,
    priority integer not null,
    state text not null,
    ready integer not null,
    attempt integer not null,
    retry_count integer not null,
    last_error text,
    worker text,
    run_at integer not null,
    check_at integer,
    started_at integer,
    completed_at integer,
    heartbeat_at integer,
    key text,
    body text not null,
    created_at integer not null,
    updated_at integer not null,
    unique (tenant, key)
) strict, without rowid;
create index jobs_ready on jobs (priority desc, run_at, id) where ready = 1;
create index jobs_to_come on jobs (run_at) where ready = 0 and state in ('pending', 'retrying');
create index jobs_running on jobs (check_at) where state = 'running';
create index jobs_by_tenant on jobs (tenant, id);
create index jobs_by_queue on jobs (tenant, queue, state);

-- Jobs that failed for the last time, as they were.
create table dead_letters (
    id text primary key not null,
    tenant text not null,
    job text not null,
    queue text not null,
    priority integer not null,
    body text not null,
    retry_count integer not null,
    error text not null,
    failed_at integer not null,
    replayed_at integer,
    replayed_as text
) strict, without rowid;
create index dead_letters_by_tenant on dead_letters (tenant, failed_at, id);
create index dead_letters_by_job on dead_letters (job);

-- Queues that have rules, with what their rates still allow.
create table job_queues (
    tenant text not null,
    name text not null,
    rules text not null,
    buckets text not null,
    primary key (tenant, name)
) strict, without rowid;
