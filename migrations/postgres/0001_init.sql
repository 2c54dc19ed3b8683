-- The same tables as on SQLite. Keys are UUIDv7 suffixes in byte order; times are milliseconds since 1970; documents
-- are JSON texts, kept byte for byte.

create table tenants (
    id text collate "C" primary key,
    name text not null,
    created_at bigint not null
);

create table api_keys (
    id text collate "C" primary key,
    tenant text collate "C" not null references tenants (id),
    name text not null,
    hash text collate "C" not null unique,
    hint text not null,
    scopes text not null,
    created_at bigint not null,
    expires_at bigint,
    revoked_at bigint
);
create index api_keys_tenant on api_keys (tenant, id);

create table credentials (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    provider text collate "C" not null,
    sealed bytea not null,
    hint text not null,
    created_at bigint not null,
    updated_at bigint not null,
    unique (tenant, provider)
);

create table flows (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    name text collate "C" not null,
    -- The name in lower case, for searching.
    folded text collate "C" not null,
    description text,
    current_version text collate "C" not null,
    published_version text collate "C",
    created_at bigint not null,
    updated_at bigint not null,
    unique (tenant, name)
);
create index flows_tenant on flows (tenant, id);

create table flow_versions (
    id text collate "C" primary key,
    flow text collate "C" not null references flows (id) on delete cascade,
    number bigint not null,
    document text not null,
    created_at bigint not null,
    published_at bigint,
    unique (flow, number)
);

create table records (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    kind text collate "C" not null,
    name text collate "C" not null,
    metadata text not null,
    messages text not null,
    created_at bigint not null,
    updated_at bigint not null,
    unique (tenant, kind, name)
);
create index records_recent on records (tenant, updated_at, id);

-- Values kept once under their content hash.
create table blobs (
    hash text collate "C" primary key,
    body text not null,
    touched_at bigint not null
);

create table runs (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    state text collate "C" not null,
    flow_hash text collate "C" not null,
    flow_id text collate "C",
    flow_name text not null,
    input text not null,
    sealed bytea,
    parent_run text collate "C",
    parent_wait text collate "C",
    owner text collate "C",
    epoch bigint not null,
    commit_no bigint not null,
    nudges bigint not null,
    reserved bigint not null,
    cancel_requested bigint not null,
    recoveries bigint not null,
    -- When somebody must look at the run: its lease's end, a timer, now; null when nothing is due.
    wake_at bigint,
    created_at bigint not null,
    finished_at bigint,
    output text,
    failure text,
    spent text not null
) with (fillfactor = 80);
create index runs_due on runs (wake_at, id) where wake_at is not null;
create index runs_tenant on runs (tenant, id);

create table journal (
    run text collate "C" not null,
    key text collate "C" not null,
    outcome text not null,
    primary key (run, key)
);

-- The event log: one row for all events of one commit.
create table events (
    run text collate "C" not null,
    last_seq bigint not null,
    first_seq bigint not null,
    rest bigint not null,
    body text not null,
    primary key (run, last_seq)
);

create table waits (
    id text collate "C" primary key,
    run text collate "C" not null,
    tenant text collate "C" not null,
    key text collate "C" not null,
    kind text collate "C" not null,
    name text collate "C" not null,
    shown text not null,
    digest text collate "C",
    deadline bigint,
    state text collate "C" not null,
    resolution text,
    created_at bigint not null,
    resolved_at bigint,
    -- The run's last event then.
    resolved_after bigint
);
create index waits_run on waits (run, id);
create index waits_open on waits (tenant, id) where state = 'open';

-- Signals that came before, or without, their wait.
create table signals (
    run text collate "C" not null,
    name text collate "C" not null,
    id text collate "C" not null,
    payload text not null,
    -- The run's nudges when it arrived: the order of arrival.
    place bigint not null,
    created_at bigint not null,
    primary key (run, name, id)
);

create table idempotency (
    tenant text collate "C" not null,
    route text collate "C" not null,
    key text collate "C" not null,
    request_hash text not null,
    -- The run that the key created, or the 128 bits that the created object's id is made from.
    subject text collate "C" not null,
    status bigint,
    body text,
    lease_until bigint not null,
    expires_at bigint not null,
    primary key (tenant, route, key)
);
create index idempotency_expiry on idempotency (expires_at);

-- A group of writes in one round trip: each argument is a JSON array of rows for one table.
--
-- A volatile function takes a fresh snapshot for each of its statements, so each sees what the ones before it wrote
-- and what other nodes committed while it waited for their locks. Locks are taken in one order everywhere: blobs,
-- keys, runs, each sorted; whatever belongs to a run is changed under the run's lock. So two groups cannot deadlock.
--
-- Returns (tag, id): runs `created`, runs `committed`, waits `resolved`, runs `nudged`.
--
-- The plans are held to index lookups: a plan that was made while the tables were empty would otherwise scan them
-- whole until the next analyze.
create function dispatch_group(
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
                commit_no, nudges, reserved, cancel_requested, recoveries, wake_at, created_at, spent)
            select n.id, n.tenant, n.state, n.flow_hash, n.flow_id, n.flow_name, n.input, decode(n.sealed, 'hex'), n.parent_run,
                n.parent_wait, n.owner, n.epoch, 0, 0, n.reserved, 0, 0, n.wake_at, n.created_at, n.spent
            from json_to_recordset(new_runs) as n(id text, tenant text, state text, flow_hash text, flow_id text, flow_name text,
                input text, sealed text, parent_run text, parent_wait text, owner text, epoch bigint, reserved bigint, wake_at bigint,
                created_at bigint, spent text, key_route text, key text)
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
                spent = c.spent, output = c.output, failure = c.failure, finished_at = c.finished_at,
                sealed = case when c.ends then null else r.sealed end,
                owner = case when c.state in ('running', 'compensating') then r.owner end
            from json_to_recordset(new_commits) as c(run text, epoch bigint, number bigint, seen bigint, state text, wake_at bigint,
                reserved bigint, spent text, output text, failure text, finished_at bigint, ends boolean, advances boolean)
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

-- Tells the other nodes about runs, when the transaction commits. A payload holds less than 8,000 bytes.
-- Runs that are due are marked with `!`.
create function dispatch_ring(runs text[], due boolean default true) returns void
language sql volatile
as $$
    select pg_notify('dispatch', string_agg(case when due then '!' || p.id else p.id end, ','))
    from (select r.id, (r.place - 1) / 280 as page from unnest(runs) with ordinality as r(id, place)) as p
    group by p.page;
$$;
