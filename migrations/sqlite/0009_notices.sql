-- Runs of which something is still to be told outside.
create index notices on journal (run) where key = 'notice';
