-- One row that the readiness check replaces, to see whether writes are taken. It is kept as it is sent: compressed it
-- would need no room.
create table write_probe (
    id bigint primary key,
    body bytea not null
);
alter table write_probe alter column body set storage external;
