-- The API key that started a run. Null: another credential or the server itself did.
alter table runs add column api_key text collate "C";

-- What was used on a day (UTC), by key, target and model. Executions and failures stand under the model ''. Rows are split into
-- shards, so that servers that commit at the same time do not wait for each other.
create table usage_days (
    tenant text collate "C" not null,
    day text collate "C" not null,
    api_key text collate "C" not null,
    target text collate "C" not null,
    model text collate "C" not null,
    shard bigint not null,
    requests bigint not null,
    executions bigint not null,
    failures bigint not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_tokens bigint not null,
    reasoning_tokens bigint not null,
    cost bigint not null,
    primary key (tenant, day, api_key, target, model, shard)
) with (fillfactor = 80);

-- Limits of a key, or with the key '' of its tenant.
create table usage_limits (
    tenant text collate "C" not null,
    api_key text collate "C" not null,
    body text not null,
    updated_at bigint not null,
    primary key (tenant, api_key)
);

-- What is booked against a limit in one window of time: what was used, and what calls under way may use at most.
create table quota_counters (
    tenant text collate "C" not null,
    api_key text collate "C" not null,
    name text collate "C" not null,
    cost bigint not null,
    tokens bigint not null,
    requests bigint not null,
    -- When nobody looks at it any more; null: never.
    expires_at bigint,
    primary key (tenant, api_key, name)
) with (fillfactor = 80);
create index quota_counters_expired on quota_counters (expires_at) where expires_at is not null;

-- Executions that were admitted and whose row is not written yet.
create table quota_slots (
    tenant text collate "C" not null,
    api_key text collate "C" not null,
    run text collate "C" not null,
    expires_at bigint not null,
    primary key (tenant, api_key, run)
);

-- Adds what commits used. `committed`: the runs whose commit was applied by dispatch_group in this transaction; those of a commit that is
-- sent a second time are not among them, so nothing is counted twice.
create function dispatch_usage(new_usage json, committed text[]) returns table (tag text, id text)
language plpgsql volatile
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    insert into usage_days as d (tenant, day, api_key, target, model, shard, requests, executions, failures, input_tokens, output_tokens,
        cached_tokens, reasoning_tokens, cost)
    select r.tenant, u.day, coalesce(r.api_key, ''), coalesce(r.flow_id, ''), u.model, pg_backend_pid() % 16, sum(u.requests),
        sum(u.executions), sum(u.failures), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens), sum(u.reasoning_tokens),
        sum(u.cost)
    from json_to_recordset(new_usage) as u(run text, day text, model text, requests bigint, executions bigint, failures bigint,
        input_tokens bigint, output_tokens bigint, cached_tokens bigint, reasoning_tokens bigint, cost bigint)
    join runs r on r.id = u.run
    where u.run = any (committed)
    group by r.tenant, u.day, coalesce(r.api_key, ''), coalesce(r.flow_id, ''), u.model
    order by r.tenant, u.day, coalesce(r.api_key, ''), coalesce(r.flow_id, ''), u.model
    on conflict (tenant, day, api_key, target, model, shard) do update set
        requests = d.requests + excluded.requests, executions = d.executions + excluded.executions,
        failures = d.failures + excluded.failures, input_tokens = d.input_tokens + excluded.input_tokens,
        output_tokens = d.output_tokens + excluded.output_tokens, cached_tokens = d.cached_tokens + excluded.cached_tokens,
        reasoning_tokens = d.reasoning_tokens + excluded.reasoning_tokens, cost = d.cost + excluded.cost;
    return;
end
$$;

-- As before, and keeps the key that started the run.
create or replace function dispatch_group(
    new_blobs json, new_keys json, new_runs json, new_commits json, new_journal json, new_events json, new_waits json, new_answers json
) returns table (tag text, id text)
language plpgsql volatile
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    created text[] := '{}';
    committed text[] := '{}';
    resolved text[] := '{}';
    nudged text[] := '{}';
begin
    -- A blob that was touched within the hour is left alone: many groups share a flow, and need not wait for each other.
    if json_array_length(new_blobs) > 0 then
        insert into blobs (hash, body, touched_at)
        select distinct on (b.hash) b.hash, b.body, b.at
        from json_to_recordset(new_blobs) as b(hash text, body text, at bigint)
        where not exists (select 1 from blobs kept where kept.hash = b.hash and kept.touched_at >= b.at - 3600000)
        order by b.hash
        on conflict (hash) do update set touched_at = greatest(blobs.touched_at, excluded.touched_at);
    end if;

    if json_array_length(new_keys) > 0 then
        insert into idempotency (tenant, route, key, request_hash, subject, lease_until, expires_at)
        select distinct on (k.tenant, k.route, k.key) k.tenant, k.route, k.key, k.request_hash, k.run, k.now, k.expires_at
        from json_to_recordset(new_keys)
            as k(tenant text, route text, key text, request_hash text, run text, now bigint, expires_at bigint)
        order by k.tenant, k.route, k.key, k.run
        on conflict (tenant, route, key) do update set
            request_hash = excluded.request_hash, subject = excluded.subject, status = null, body = null,
            lease_until = excluded.lease_until, expires_at = excluded.expires_at
        where idempotency.expires_at <= excluded.lease_until;
    end if;

    perform 1 from runs r
    where r.id = any (array(
        select c.run from json_to_recordset(new_commits) as c(run text)
        union
        select w.run from json_to_recordset(new_answers) as a(wait text) join waits w on w.id = a.wait
    ))
    order by r.id
    for no key update;

    if json_array_length(new_runs) > 0 then
        with won as (
            insert into runs (id, tenant, state, flow_hash, flow_id, flow_name, input, sealed, parent_run, parent_wait, owner, epoch,
                commit_no, nudges, reserved, cancel_requested, recoveries, wake_at, created_at, spent, record_id, api_key)
            select n.id, n.tenant, n.state, n.flow_hash, n.flow_id, n.flow_name, n.input, decode(n.sealed, 'hex'), n.parent_run,
                n.parent_wait, n.owner, n.epoch, 0, 0, n.reserved, 0, 0, n.wake_at, n.created_at, n.spent, n.record_id,
                n.api_key
            from json_to_recordset(new_runs) as n(id text, tenant text, state text, flow_hash text, flow_id text, flow_name text,
                input text, sealed text, parent_run text, parent_wait text, owner text, epoch bigint, reserved bigint, wake_at bigint,
                created_at bigint, spent text, key_route text, key text, record_id text, api_key text)
            where n.key is null or exists (
                select 1 from idempotency i
                where i.tenant = n.tenant and i.route = n.key_route and i.key = n.key
                    and i.subject = n.id)
            order by n.id
            on conflict do nothing
            returning runs.id
        )
        select coalesce(array_agg(won.id), '{}') into created from won;
    end if;

    if json_array_length(new_commits) > 0 then
        with won as (
            update runs r set
                state = c.state,
                -- A lease that was renewed while the commit was on its way is not shortened by it.
                wake_at = case when c.ends then null when c.state in ('running', 'compensating') then greatest(c.wake_at, r.wake_at)
                    else c.wake_at end,
                commit_no = c.number, reserved = c.reserved,
                recoveries = case when c.advances then 0 else r.recoveries end,
                spent = c.spent, output = c.output, failure = c.failure, finished_at = c.finished_at, success = c.success,
                sealed = case when c.ends then null else r.sealed end,
                owner = case when c.state in ('running', 'compensating') then r.owner end
            from json_to_recordset(new_commits) as c(run text, epoch bigint, number bigint, seen bigint, state text, wake_at bigint,
                reserved bigint, spent text, output text, failure text, finished_at bigint, ends boolean, advances boolean,
                success bigint)
            where r.id = c.run and r.epoch = c.epoch and r.commit_no = c.number - 1
                and r.state in ('running', 'compensating') and (c.seen is null or c.seen = r.nudges)
            returning r.id
        )
        select coalesce(array_agg(won.id), '{}') into committed from won;
    end if;

    if json_array_length(new_journal) > 0 then
        insert into journal (run, key, outcome)
        select r.id, j.key, j.outcome
        from json_to_recordset(new_journal) as j(run text, epoch bigint, number bigint, key text, outcome text)
        join runs r on r.id = j.run and r.epoch = j.epoch and r.commit_no = j.number
        on conflict (run, key) do update set outcome = excluded.outcome;
    end if;

    if json_array_length(new_events) > 0 then
        insert into events (run, last_seq, first_seq, rest, body)
        select r.id, e.last, e.first, e.rest, e.body
        from json_to_recordset(new_events)
            as e(run text, epoch bigint, number bigint, first bigint, last bigint, rest bigint, body text)
        join runs r on r.id = e.run and r.epoch = e.epoch and r.commit_no = e.number
        on conflict do nothing;
    end if;

    if json_array_length(new_waits) > 0 then
        insert into waits (id, run, tenant, key, kind, name, shown, digest, deadline, state, created_at)
        select w.id, r.id, w.tenant, w.key, w.kind, w.name, w.shown, w.digest, w.deadline, 'open', w.created_at
        from json_to_recordset(new_waits) as w(id text, run text, epoch bigint, number bigint, tenant text, key text, kind text,
            name text, shown text, digest text, deadline bigint, created_at bigint)
        join runs r on r.id = w.run and r.epoch = w.epoch and r.commit_no = w.number
        on conflict do nothing;
    end if;

    if json_array_length(new_commits) > 0 then
        update waits w set state = 'closed'
        from json_to_recordset(new_commits) as c(run text, epoch bigint, number bigint, ends boolean)
        join runs r on r.id = c.run and r.epoch = c.epoch and r.commit_no = c.number
        where c.ends and w.run = r.id and w.state = 'open';
    end if;

    if json_array_length(new_answers) > 0 then
        with won as (
            update waits w set state = 'resolved', resolution = a.resolution, resolved_at = a.now,
                resolved_after = (select max(e.last_seq) from events e where e.run = w.run)
            from json_to_recordset(new_answers)
                as a(wait text, tenant text, resolution text, now bigint, run text, epoch bigint, number bigint)
            where w.id = a.wait and w.tenant = a.tenant and w.state = 'open'
                and (a.run is null or exists (
                    select 1 from runs r where r.id = a.run and r.epoch = a.epoch and r.commit_no = a.number))
            returning w.id, w.run, a.now
        ), woken as (
            update runs r set nudges = r.nudges + 1,
                wake_at = case when r.state = 'paused' then least(coalesce(r.wake_at, t.now), t.now) else r.wake_at end
            from (select won.run, max(won.now) as now from won group by won.run) as t
            where r.id = t.run and r.state in ('queued', 'running', 'paused', 'compensating')
            returning r.id
        )
        select coalesce((select array_agg(won.id) from won), '{}'), coalesce((select array_agg(woken.id) from woken), '{}')
        into resolved, nudged;
    end if;

    -- What is due wakes a worker of any node; what only grew wakes readers.
    perform dispatch_ring(created || committed, false);
    perform dispatch_ring(nudged || array(
        select r.id from json_to_recordset(new_runs) as r(id text, state text) where r.state = 'queued' and r.id = any (created)
        union all
        select c.run from json_to_recordset(new_commits) as c(run text, state text, wake_at bigint)
        where c.state in ('queued', 'paused') and c.wake_at is not null and c.run = any (committed)
    ), true);

    return query
    select 'created', unnest(created) union all select 'committed', unnest(committed)
    union all select 'resolved', unnest(resolved) union all select 'nudged', unnest(nudged);
end
$$;
