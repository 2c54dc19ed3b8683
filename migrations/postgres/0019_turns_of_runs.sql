-- Due runs by tenant: a claim that cannot take all takes those of each tenant in its turn.
create index runs_due_by_tenant on runs (tenant, wake_at, id) where wake_at is not null;
