-- Agents are kept like flows, with names of their own. The table is made anew, because its rule about names cannot be changed in place;
-- the versions first let go of the old one, or they would be deleted with it.
create table flows_new (
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
    kind text not null default 'flow',
    unique (tenant, kind, name)
) strict, without rowid;
insert into flows_new (id, tenant, name, folded, description, current_version, published_version, created_at, updated_at)
select id, tenant, name, folded, description, current_version, published_version, created_at, updated_at from flows;

create table flow_versions_new (
    id text primary key,
    flow text not null references flows_new (id) on delete cascade,
    number integer not null,
    document text not null,
    created_at integer not null,
    published_at integer,
    unique (flow, number)
) strict, without rowid;
insert into flow_versions_new (id, flow, number, document, created_at, published_at)
select id, flow, number, document, created_at, published_at from flow_versions;

drop table flow_versions;
drop table flows;
alter table flows_new rename to flows;
alter table flow_versions_new rename to flow_versions;
create index flows_tenant on flows (tenant, kind, id);
