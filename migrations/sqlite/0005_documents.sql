-- Whatever is kept whole and read whole: one row per document, told apart by its kind. `place` is unique in a tenant and kind, `parent` groups,
-- `due_at` is when somebody must look at it.
create table documents (
    tenant text not null,
    kind text not null,
    id text not null,
    place text,
    parent text,
    due_at integer,
    version integer not null,
    body text not null,
    created_at integer not null,
    updated_at integer not null,
    primary key (tenant, kind, id),
    unique (tenant, kind, place)
) strict, without rowid;
create index documents_by_parent on documents (tenant, kind, parent, id);
create index documents_due on documents (kind, due_at) where due_at is not null;
