-- Values that flows name as {{secret:KEY}}. What they are is in `sealed` and nowhere else.
create table secrets (
    id text primary key,
    tenant text not null,
    key text not null,
    description text,
    sealed blob,
    version integer not null,
    rotated_at integer,
    created_at integer not null,
    updated_at integer not null,
    unique (tenant, key)
) strict, without rowid;
