-- One row that the readiness check replaces, to see whether writes are taken.
create table write_probe (
    id integer not null primary key,
    body blob not null
) strict;
