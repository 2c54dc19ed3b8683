-- Values that flows name as {{secret:KEY}}. What they are is in `sealed` and nowhere else.
create table secrets (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    key text collate "C" not null,
    description text,
    sealed bytea,
    version bigint not null,
    rotated_at bigint,
    created_at bigint not null,
    updated_at bigint not null,
    unique (tenant, key)
);
