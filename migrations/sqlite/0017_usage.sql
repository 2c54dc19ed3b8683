-- The API key that started a run. Null: another credential or the server itself did.
alter table runs add column api_key text;

-- What was used on a day (UTC), by key, target and model. Executions and failures stand under the model ''. One shard is enough
-- here: a file has one writer.
create table usage_days (
    tenant text not null,
    day text not null,
    api_key text not null,
    target text not null,
    model text not null,
    shard integer not null,
    requests integer not null,
    executions integer not null,
    failures integer not null,
    input_tokens integer not null,
    output_tokens integer not null,
    cached_tokens integer not null,
    reasoning_tokens integer not null,
    cost integer not null,
    primary key (tenant, day, api_key, target, model, shard)
) strict, without rowid;

-- Limits of a key, or with the key '' of its tenant.
create table usage_limits (
    tenant text not null,
    api_key text not null,
    body text not null,
    updated_at integer not null,
    primary key (tenant, api_key)
) strict, without rowid;

-- What is booked against a limit in one window of time: what was used, and what calls under way may use at most.
create table quota_counters (
    tenant text not null,
    api_key text not null,
    name text not null,
    cost integer not null,
    tokens integer not null,
    requests integer not null,
    -- When nobody looks at it any more; null: never.
    expires_at integer,
    primary key (tenant, api_key, name)
) strict, without rowid;
create index quota_counters_expired on quota_counters (expires_at) where expires_at is not null;

-- Executions that were admitted and whose row is not written yet.
create table quota_slots (
    tenant text not null,
    api_key text not null,
    run text not null,
    expires_at integer not null,
    primary key (tenant, api_key, run)
) strict, without rowid;
