-- Vectors with their texts, by collection. `parts` are little-endian floats of 32 bits. What was kept as documents stays there no longer.
create table vectors (
    tenant text not null,
    id text not null,
    collection text not null,
    name text,
    parts blob not null,
    text text,
    metadata text not null,
    primary key (tenant, id),
    unique (tenant, collection, name)
) strict, without rowid;
create index vectors_by_collection on vectors (tenant, collection, id);
delete from documents where kind = 'vector';
