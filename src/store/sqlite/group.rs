//! The group statement: one call, one transaction, one JSON array per table.
//!
//! Each sqlx call on SQLite costs a hand-over between threads, so a whole group goes as one text of several
//! statements whose arguments are numbered across them. Statements that would find no rows would still cost their setting up, so
//! there is a text for each combination of tables that groups turn out to have; the connection keeps them prepared.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use moka::sync::Cache;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};
use tokio::sync::broadcast;

use super::pen::Pen;
use super::{failed, jobs, runs, waits};
use crate::id::RunId;
use crate::store::batch::{Batch, TABLES, Won};
use crate::store::group::{Apply, PROBE_BYTES};
use crate::store::{Commit, Committed, Created, Enqueued, NewJob, NewRun, Resolve, Resolved, Rung, StoreResult};

/// Flows whose blob is known to be stored.
const KNOWN_FLOWS: u64 = 10_000;
/// Kept shorter than the age at which an unused blob may be collected.
const KNOWN_FOR: std::time::Duration = std::time::Duration::from_secs(600);

const PROBE: &str = "insert into write_probe (id, body) values (1, randomblob($1)) on conflict (id) do update set body = excluded.body";

/// The statements in their order, each with the number of the argument that it reads. One whose argument has no rows is left out.
const STATEMENTS: [(usize, &str); 14] = [
    (
        1,
        r"
insert into blobs (hash, body, touched_at)
select value->>'hash', value->>'body', value->>'at' from json_each($1) where true
on conflict (hash) do update set touched_at = excluded.touched_at where touched_at < excluded.touched_at - 3600000;
",
    ),
    (
        2,
        r"
insert into idempotency (tenant, route, key, request_hash, subject, lease_until, expires_at)
select value->>'tenant', value->>'route', value->>'key', value->>'request_hash', value->>'run', value->>'now', value->>'expires_at'
from json_each($2) where true
on conflict (tenant, route, key) do update set
    request_hash = excluded.request_hash, subject = excluded.subject, status = null, body = null,
    lease_until = excluded.lease_until, expires_at = excluded.expires_at
where idempotency.expires_at <= excluded.lease_until;
",
    ),
    (
        3,
        r"
insert into runs (id, tenant, state, flow_hash, flow_id, flow_name, input, sealed, parent_run, parent_wait, owner, epoch, commit_no,
    nudges, reserved, cancel_requested, recoveries, wake_at, created_at, spent, record_id, api_key)
select value->>'id', value->>'tenant', value->>'state', value->>'flow_hash', value->>'flow_id', value->>'flow_name', value->>'input',
    unhex(value->>'sealed'), value->>'parent_run', value->>'parent_wait', value->>'owner', value->>'epoch', 0,
    0, value->>'reserved', 0, 0, value->>'wake_at', value->>'created_at', value->>'spent',
    value->>'record_id', value->>'api_key'
from json_each($3)
where value->>'key' is null or exists (
    select 1 from idempotency i where i.tenant = value->>'tenant' and i.route = value->>'key_route' and i.key = value->>'key'
        and i.subject = value->>'id')
on conflict do nothing
returning 'created' as tag, id;
",
    ),
    // Before the commits: a commit that is going to be applied still has its predecessor's number here, one that is sent again has its own.
    (
        11,
        r"
insert into usage_days (tenant, day, api_key, target, model, shard, requests, executions, failures, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, cost)
select r.tenant, value->>'day', coalesce(r.api_key, ''), coalesce(r.flow_id, ''), value->>'model', 0, sum(value->>'requests'),
    sum(value->>'executions'), sum(value->>'failures'), sum(value->>'input_tokens'), sum(value->>'output_tokens'),
    sum(value->>'cached_tokens'), sum(value->>'reasoning_tokens'), sum(value->>'cost')
from json_each($11)
join runs r on r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number' - 1
    and r.state in ('running', 'compensating') and (value->>'seen' is null or value->>'seen' = r.nudges)
where true
group by 1, 2, 3, 4, 5
on conflict (tenant, day, api_key, target, model, shard) do update set
    requests = requests + excluded.requests, executions = executions + excluded.executions, failures = failures + excluded.failures,
    input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens, reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens,
    cost = cost + excluded.cost;
",
    ),
    (
        4,
        r"
update runs set
    state = c.state,
    -- A lease that was renewed while the commit was on its way is not shortened by it.
    wake_at = case when c.ends then null when c.state in ('running', 'compensating') then max(c.wake_at, coalesce(runs.wake_at, 0))
        else c.wake_at end,
    commit_no = c.number, reserved = c.reserved, spent = c.spent, output = c.output,
    failure = c.failure, finished_at = c.finished_at, success = c.success,
    recoveries = case when c.advances then 0 else recoveries end,
    sealed = case when c.ends then null else sealed end,
    owner = case when c.state in ('running', 'compensating') then owner else null end
from (select value->>'run' as run, value->>'epoch' as epoch, value->>'number' as number, value->>'seen' as seen,
        value->>'state' as state, value->>'wake_at' as wake_at, value->>'reserved' as reserved, value->>'spent' as spent,
        value->>'output' as output, value->>'failure' as failure, value->>'finished_at' as finished_at, value->>'ends' as ends,
        value->>'advances' as advances, value->>'success' as success
    from json_each($4)) as c
where runs.id = c.run and runs.epoch = c.epoch and runs.commit_no = c.number - 1 and runs.state in ('running', 'compensating')
    and (c.seen is null or c.seen = runs.nudges)
returning 'committed' as tag, runs.id;
",
    ),
    (
        5,
        r"
insert into journal (run, key, outcome)
select r.id, value->>'key', value->>'outcome' from json_each($5)
join runs r on r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number'
where true
on conflict (run, key) do update set outcome = excluded.outcome;
",
    ),
    (
        6,
        r"
insert into events (run, last_seq, first_seq, rest, body)
select r.id, value->>'last', value->>'first', value->>'rest', value->>'body' from json_each($6)
join runs r on r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number'
where true
on conflict do nothing;
",
    ),
    (
        7,
        r"
insert into waits (id, run, tenant, key, kind, name, shown, digest, deadline, state, created_at)
select value->>'id', r.id, value->>'tenant', value->>'key', value->>'kind', value->>'name', value->>'shown', value->>'digest',
    value->>'deadline', 'open', value->>'created_at'
from json_each($7)
join runs r on r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number'
where true
on conflict do nothing;
",
    ),
    (
        4,
        r"
update waits set state = 'closed' where state = 'open' and run in (
    select r.id from json_each($4) join runs r on r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number'
    where value->>'ends');
",
    ),
    (
        8,
        r"
update runs set nudges = nudges + 1,
    wake_at = case when state = 'paused' then min(coalesce(wake_at, a.now), a.now) else wake_at end
from (select w.run as run, max(value->>'now') as now from json_each($8)
    join waits w on w.id = value->>'wait' and w.tenant = value->>'tenant' and w.state = 'open'
    where value->>'run' is null or exists (
        select 1 from runs r where r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number')
    group by w.run) as a
where runs.id = a.run and runs.state in ('queued', 'running', 'paused', 'compensating')
returning 'nudged' as tag, runs.id;
",
    ),
    (
        8,
        r"
update waits set state = 'resolved', resolution = a.resolution, resolved_at = a.now,
    resolved_after = (select max(e.last_seq) from events e where e.run = waits.run)
from (select value->>'wait' as wait, value->>'tenant' as tenant, value->>'resolution' as resolution, value->>'now' as now,
        value->>'run' as run, value->>'epoch' as epoch, value->>'number' as number
    from json_each($8)) as a
where waits.id = a.wait and waits.tenant = a.tenant and waits.state = 'open'
    and (a.run is null or exists (select 1 from runs r where r.id = a.run and r.epoch = a.epoch and r.commit_no = a.number))
returning 'resolved' as tag, waits.id;
",
    ),
    (
        9,
        r"
insert into jobs (id, tenant, queue, org, name, priority, state, ready, attempt, retry_count, run_at, key, body, created_at, updated_at)
select value->>'id', value->>'tenant', value->>'queue', value->>'org', value->>'name', value->>'priority', 'pending', value->>'ready', 0, 0,
    value->>'run_at', value->>'key', value->>'body', value->>'created_at', value->>'created_at'
from json_each($9) where true
on conflict do nothing
returning 'enqueued' as tag, id;
",
    ),
    (
        10,
        r"
insert into dead_letters (id, tenant, job, queue, priority, body, retry_count, error, failed_at)
select value->>'dead', j.tenant, j.id, j.queue, j.priority, j.body, j.retry_count + 1, coalesce(value->>'error', ''), value->>'now'
from json_each($10)
join jobs j on j.id = value->>'job' and j.tenant = value->>'tenant' and j.attempt = value->>'attempt' and j.state = 'running'
where value->>'dead' is not null and (value->>'run' is null or exists (
    select 1 from runs r where r.id = value->>'run' and r.epoch = value->>'epoch' and r.commit_no = value->>'number'))
on conflict do nothing;
",
    ),
    (
        10,
        r"
update jobs set
    state = e.state, ready = 0, check_at = null, worker = null, updated_at = e.now,
    untold = (e.run is null and e.state in ('failed', 'cancelled')),
    -- An attempt that could not begin is not counted.
    attempt = jobs.attempt - (e.state = 'pending'),
    retry_count = jobs.retry_count + (e.state in ('retrying', 'failed')),
    last_error = coalesce(e.error, jobs.last_error),
    run_at = coalesce(e.run_at, jobs.run_at),
    completed_at = case when e.state in ('completed', 'failed', 'cancelled') then e.now end
from (select value->>'tenant' as tenant, value->>'job' as job, value->>'attempt' as attempt, value->>'error' as error,
        -- Whoever cancelled the run before it failed wants no other attempt.
        case when value->>'state' = 'retrying' and exists (select 1 from runs r where r.id = value->>'run' and r.cancel_requested = 1)
            then 'cancelled' else value->>'state' end as state,
        value->>'run_at' as run_at, value->>'now' as now, value->>'run' as run, value->>'epoch' as epoch, value->>'number' as number
    from json_each($10)) as e
where jobs.id = e.job and jobs.tenant = e.tenant and jobs.attempt = e.attempt and jobs.state = 'running'
    and (e.run is null or exists (select 1 from runs r where r.id = e.run and r.epoch = e.epoch and r.commit_no = e.number))
returning 'ended' as tag, jobs.id;
",
    ),
];

fn group(filled: [bool; TABLES]) -> String {
    let statements = STATEMENTS.iter().filter(|(argument, _)| filled.get(argument - 1).is_some_and(|filled| *filled)).map(|(_, sql)| *sql);
    std::iter::once("begin immediate;").chain(statements).chain(["commit;"]).collect()
}

/// The writer's driver on SQLite.
pub(super) struct Driver {
    pen: Arc<Pen>,
    /// By the tables that they write.
    texts: HashMap<[bool; TABLES], Arc<str>>,
    flows: Cache<String, ()>,
    bell: broadcast::Sender<Rung>,
}

impl Driver {
    pub fn new(pen: Arc<Pen>, bell: broadcast::Sender<Rung>) -> Self {
        let flows = Cache::builder().max_capacity(KNOWN_FLOWS).time_to_live(KNOWN_FOR).build();
        Self { pen, texts: HashMap::new(), flows, bell }
    }

    fn text(&mut self, filled: [bool; TABLES]) -> Arc<str> {
        self.texts.entry(filled).or_insert_with(|| group(filled).into()).clone()
    }
}

#[async_trait]
impl Apply for Driver {
    async fn apply(&mut self, batch: &Batch) -> StoreResult<Won> {
        let arguments = batch.arguments();
        let text = self.text(arguments.each_ref().map(Option::is_some));
        let mut connection = self.pen.take().await?;
        let mut query = sqlx::query(AssertSqlSafe(text));
        for argument in arguments {
            query = query.bind(argument);
        }
        let rows: Vec<SqliteRow> = match query.fetch_all(&mut *connection).await {
            Ok(rows) => rows,
            Err(error) => {
                // The transaction is still open when a statement in the middle failed.
                let _ = sqlx::query("rollback").execute(&mut *connection).await;
                self.pen.health.note(&error);
                return Err(failed(error));
            }
        };
        // A write to a file that was deleted in the meantime is not durable.
        self.pen.health.files.check()?;
        let mut won = Won::default();
        for row in rows {
            won.note(row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        }
        Ok(won)
    }

    async fn probe(&mut self) -> StoreResult<()> {
        let mut connection = self.pen.take().await?;
        let written = sqlx::query(PROBE).bind(PROBE_BYTES).execute(&mut *connection).await;
        written.map(drop).inspect_err(|error| self.pen.health.note(error)).map_err(failed)
    }

    async fn explain_create(&mut self, new: &NewRun) -> StoreResult<Created> {
        runs::explain_create(&mut *self.pen.take().await?, new).await
    }

    async fn explain_commit(&mut self, commit: &Commit) -> StoreResult<Committed> {
        runs::explain_commit(&mut *self.pen.take().await?, commit).await
    }

    async fn explain_resolve(&mut self, answer: &Resolve) -> StoreResult<Resolved> {
        waits::explain_resolve(&mut *self.pen.take().await?, answer).await
    }

    async fn explain_enqueue(&mut self, new: &NewJob) -> StoreResult<Enqueued> {
        jobs::explain_enqueue(&mut *self.pen.take().await?, new).await
    }

    fn knows_flow(&self, hash: &str) -> bool {
        self.flows.contains_key(hash)
    }

    fn note_flow(&mut self, hash: &str) {
        self.flows.insert(hash.to_owned(), ());
    }

    fn ring(&self, run: RunId) {
        let _ = self.bell.send(Rung::due(run));
    }

    async fn close(&mut self) {}
}
