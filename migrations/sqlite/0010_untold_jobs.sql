-- Jobs whose end no run tells of: nothing did them, or they were cancelled while they waited.
alter table jobs add column untold integer not null default 0;
create index jobs_untold on jobs (id) where untold = 1;
