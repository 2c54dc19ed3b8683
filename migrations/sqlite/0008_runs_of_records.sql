-- Which saved record a run is about.
alter table runs add column record_id text;
create index runs_of_record on runs (tenant, record_id, id) where record_id is not null;
