-- Whether the log of an ended run was made small; those that were not are found by the time of their end.
alter table runs add column compacted bigint not null default 0;
create index runs_bulky on runs (finished_at, id) where compacted = 0 and finished_at is not null;
