-- Whatever is kept whole and read whole: one row per document, told apart by its kind. `place` is unique in a tenant and kind, `parent` groups,
-- `due_at` is when somebody must look at it.
create table documents (
    tenant text collate "C" not null,
    kind text collate "C" not null,
    id text collate "C" not null,
    place text collate "C",
    parent text collate "C",
    due_at bigint,
    version bigint not null,
    body text not null,
    created_at bigint not null,
    updated_at bigint not null,
    primary key (tenant, kind, id),
    unique (tenant, kind, place)
);
create index documents_by_parent on documents (tenant, kind, parent, id);
create index documents_due on documents (kind, due_at) where due_at is not null;
