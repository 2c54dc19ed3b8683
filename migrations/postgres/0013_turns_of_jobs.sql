-- Jobs whose time has come, by tenant: a claim takes those of each tenant in its turn.
create index jobs_ready_by_tenant on jobs (tenant, priority desc, run_at, id) where ready = 1;
drop index jobs_ready;
