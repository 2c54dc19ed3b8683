-- Agents are kept like flows, with names of their own.
alter table flows add column kind text not null default 'flow';
alter table flows drop constraint flows_tenant_name_key;
alter table flows add unique (tenant, kind, name);
drop index flows_tenant;
create index flows_tenant on flows (tenant, kind, id);
