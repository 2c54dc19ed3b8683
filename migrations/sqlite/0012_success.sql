-- Whether a run that has ended did well, every step of it. Null: it has not ended, or it ended before this was noted.
alter table runs add column success integer;
