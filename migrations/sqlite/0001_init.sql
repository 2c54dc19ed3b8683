-- Keys are UUIDv7 suffixes: rows of one time lie on the same pages. Times are milliseconds since 1970.

create table tenants (
    id text primary key,
    name text not null,
    created_at integer not null
) strict, without rowid;

create table api_keys (
    id text primary key,
    tenant text not null references tenants (id),
    name text not null,
    hash text not null unique,
    hint text not null,
    scopes text not null,
    created_at integer not null,
    expires_at integer,
    revoked_at integer
) strict, without rowid;
create index api_keys_tenant on api_keys (tenant, id);

create table credentials (
    id text primary key,
    tenant text not null,
    provider text not null,
    sealed blob not null,
    hint text not null,
    created_at integer not null,
    updated_at integer not null,
    unique (tenant, provider)
) strict, without rowid;

create table flows (
    id text primary key,
    tenant text not null,
    name text not null,
    -- The name in lower case, for searching.
    folded text not null,
    description text,
    current_version text not null,
    published_version text,
    created_at integer not null,
    updated_at integer not null,
    unique (tenant, name)
) strict, without rowid;
create index flows_tenant on flows (tenant, id);

create table flow_versions (
    id text primary key,
    flow text not null references flows (id) on delete cascade,
    number integer not null,
    document text not null,
    created_at integer not null,
    published_at integer,
    unique (flow, number)
) strict, without rowid;

create table records (
    id text primary key,
    tenant text not null,
    kind text not null,
    name text not null,
    metadata text not null,
    messages text not null,
    created_at integer not null,
    updated_at integer not null,
    unique (tenant, kind, name)
) strict, without rowid;
create index records_recent on records (tenant, updated_at, id);

-- Values kept once under their content hash.
create table blobs (
    hash text primary key,
    body text not null,
    touched_at integer not null
) strict, without rowid;

create table runs (
    id text primary key,
    tenant text not null,
    state text not null,
    flow_hash text not null,
    flow_id text,
    flow_name text not null,
    input text not null,
    sealed blob,
    parent_run text,
    parent_wait text,
    owner text,
    epoch integer not null,
    commit_no integer not null,
    nudges integer not null,
    reserved integer not null,
    cancel_requested integer not null,
    recoveries integer not null,
    -- When somebody must look at the run: its lease's end, a timer, now; null when nothing is due.
    wake_at integer,
    created_at integer not null,
    finished_at integer,
    output text,
    failure text,
    spent text not null
) strict, without rowid;
create index runs_due on runs (wake_at, id) where wake_at is not null;
create index runs_tenant on runs (tenant, id);

create table journal (
    run text not null,
    key text not null,
    outcome text not null,
    primary key (run, key)
) strict, without rowid;

-- The event log: one row for all events of one commit.
create table events (
    run text not null,
    last_seq integer not null,
    first_seq integer not null,
    rest integer not null,
    body text not null,
    primary key (run, last_seq)
) strict, without rowid;

create table waits (
    id text primary key,
    run text not null,
    tenant text not null,
    key text not null,
    kind text not null,
    name text not null,
    shown text not null,
    digest text,
    deadline integer,
    state text not null,
    resolution text,
    created_at integer not null,
    resolved_at integer,
    -- The run's last event then.
    resolved_after integer
) strict, without rowid;
create index waits_run on waits (run, id);
create index waits_open on waits (tenant, id) where state = 'open';

-- Signals that came before, or without, their wait.
create table signals (
    run text not null,
    name text not null,
    id text not null,
    payload text not null,
    -- The run's nudges when it arrived: the order of arrival.
    place integer not null,
    created_at integer not null,
    primary key (run, name, id)
) strict, without rowid;

create table idempotency (
    tenant text not null,
    route text not null,
    key text not null,
    request_hash text not null,
    -- The run that the key created, or the 128 bits that the created object's id is made from.
    subject text not null,
    status integer,
    body text,
    lease_until integer not null,
    expires_at integer not null,
    primary key (tenant, route, key)
) strict, without rowid;
create index idempotency_expiry on idempotency (expires_at);
