-- Jobs. One whose time has come is `ready`; one that runs is looked after at `check_at`, unless its run ends it before.
create table jobs (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    queue text collate "C" not null,
    org text collate "C" not null,
    name text collate "C" not null,
    priority bigint not null,
    state text collate "C" not null,
    ready bigint not null,
    attempt bigint not null,
    retry_count bigint not null,
    last_error text,
    worker text,
    run_at bigint not null,
    check_at bigint,
    started_at bigint,
    completed_at bigint,
    heartbeat_at bigint,
    key text collate "C",
    body text not null,
    created_at bigint not null,
    updated_at bigint not null,
    unique (tenant, key)
);
create index jobs_ready on jobs (priority desc, run_at, id) where ready = 1;
create index jobs_to_come on jobs (run_at) where ready = 0 and state in ('pending', 'retrying');
create index jobs_running on jobs (check_at) where state = 'running';
create index jobs_by_tenant on jobs (tenant, id);
create index jobs_by_queue on jobs (tenant, queue, state);

-- Jobs that failed for the last time, as they were.
create table dead_letters (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    job text collate "C" not null,
    queue text collate "C" not null,
    priority bigint not null,
    body text not null,
    retry_count bigint not null,
    error text not null,
    failed_at bigint not null,
    replayed_at bigint,
    replayed_as text
);
create index dead_letters_by_tenant on dead_letters (tenant, failed_at, id);
create index dead_letters_by_job on dead_letters (job);

-- Queues that have rules, with what their rates still allow.
create table job_queues (
    tenant text collate "C" not null,
    name text collate "C" not null,
    rules text not null,
    buckets text not null,
    primary key (tenant, name)
);

-- The part of a group that is about jobs: called behind `dispatch_group`, in the same statement, so that a run's end and its job's are one.
create function dispatch_jobs(new_jobs json, new_ends json) returns table (tag text, id text)
language plpgsql volatile
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    enqueued text[] := '{}';
    ended text[] := '{}';
begin
    if json_array_length(new_jobs) > 0 then
        with won as (
            insert into jobs (id, tenant, queue, org, name, priority, state, ready, attempt, retry_count, run_at, key, body, created_at, updated_at)
            select n.id, n.tenant, n.queue, n.org, n.name, n.priority, 'pending', n.ready, 0, 0, n.run_at, n.key, n.body, n.created_at, n.created_at
            from json_to_recordset(new_jobs) as n(id text, tenant text, queue text, org text, name text, priority bigint, ready bigint,
                run_at bigint, key text, body text, created_at bigint)
            order by n.id
            on conflict do nothing
            returning jobs.id
        )
        select coalesce(array_agg(won.id), '{}') into enqueued from won;
    end if;

    if json_array_length(new_ends) > 0 then
        perform 1 from jobs j
        where j.id = any (array(select e.job from json_to_recordset(new_ends) as e(job text)))
        order by j.id
        for no key update;

        with won as (
            update jobs j set
                state = e.state, ready = 0, check_at = null, worker = null, updated_at = e.now,
                -- An attempt that could not begin is not counted.
                attempt = j.attempt - case when e.state = 'pending' then 1 else 0 end,
                retry_count = j.retry_count + case when e.state in ('retrying', 'failed') then 1 else 0 end,
                last_error = coalesce(e.error, j.last_error),
                run_at = coalesce(e.run_at, j.run_at),
                completed_at = case when e.state in ('completed', 'failed', 'cancelled') then e.now end
            from json_to_recordset(new_ends) as e(tenant text, job text, attempt bigint, state text, error text, run_at bigint, now bigint,
                run text, epoch bigint, number bigint)
            where j.id = e.job and j.tenant = e.tenant and j.attempt = e.attempt and j.state = 'running'
                and (e.run is null or exists (
                    select 1 from runs r where r.id = e.run and r.epoch = e.epoch and r.commit_no = e.number))
            returning j.id
        )
        select coalesce(array_agg(won.id), '{}') into ended from won;

        insert into dead_letters (id, tenant, job, queue, priority, body, retry_count, error, failed_at)
        select e.dead, j.tenant, j.id, j.queue, j.priority, j.body, j.retry_count, coalesce(e.error, ''), e.now
        from json_to_recordset(new_ends) as e(job text, dead text, error text, now bigint)
        join jobs j on j.id = e.job
        where e.dead is not null and j.id = any (ended)
        on conflict do nothing;
    end if;

    return query select 'enqueued', unnest(enqueued) union all select 'ended', unnest(ended);
end
$$;
