-- Jobs whose end no run tells of: nothing did them, or they were cancelled while they waited.
alter table jobs add column untold bigint not null default 0;
create index jobs_untold on jobs (id) where untold = 1;

-- A job whose run was to be cancelled, and failed first, is cancelled: it is not tried again.
create or replace function dispatch_jobs(new_jobs json, new_ends json) returns table (tag text, id text)
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
                untold = case when e.run is null and e.state in ('failed', 'cancelled') then 1 else 0 end,
                -- An attempt that could not begin is not counted.
                attempt = j.attempt - case when e.state = 'pending' then 1 else 0 end,
                retry_count = j.retry_count + case when e.state in ('retrying', 'failed') then 1 else 0 end,
                last_error = coalesce(e.error, j.last_error),
                run_at = coalesce(e.run_at, j.run_at),
                completed_at = case when e.state in ('completed', 'failed', 'cancelled') then e.now end
            from (
                select n.tenant, n.job, n.attempt, n.error, n.run_at, n.now, n.run, n.epoch, n.number,
                    -- Whoever cancelled the run before it failed wants no other attempt.
                    case when n.state = 'retrying' and exists (select 1 from runs r where r.id = n.run and r.cancel_requested = 1)
                        then 'cancelled' else n.state end as state
                from json_to_recordset(new_ends) as n(tenant text, job text, attempt bigint, state text, error text, run_at bigint, now bigint,
                    run text, epoch bigint, number bigint)
            ) as e
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
