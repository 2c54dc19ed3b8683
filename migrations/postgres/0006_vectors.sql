-- Vectors with their texts, by collection. What was kept as documents stays there no longer.
create table vectors (
    tenant text collate "C" not null,
    id text collate "C" not null,
    collection text collate "C" not null,
    name text collate "C",
    parts real[] not null,
    text text,
    metadata text not null,
    primary key (tenant, id),
    unique (tenant, collection, name)
);
create index vectors_by_collection on vectors (tenant, collection, id);
delete from documents where kind = 'vector';
