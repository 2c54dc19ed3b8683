//! The store of jobs on a SQL database: the statements are the same on each, which says how it reads and how it writes.
//!
//! A job whose time has come is `ready`, so that a claim looks at no more rows than it takes, in the order of their priority.

use crate::model::Job;
use crate::store::row::{self, Columns};

/// A job that can be read. Others are passed over: they must not stop those behind them.
pub(in crate::store) fn readable(row: &impl Columns) -> Option<Job> {
    row::job(row).inspect_err(|error| tracing::error!(%error, "a job cannot be read; it is passed over")).ok()
}

/// Implements [`super::Jobs`]. `list` is how the database reads the JSON array of its first argument.
macro_rules! in_sql {
    ($store:ty, $connection:ty, list: $list:literal, |$this:ident| read: $read:expr, write: $write:expr, unit: |$work:ident| $unit:expr) => {
        /// Takes jobs, in an open transaction that no other claim runs beside.
        async fn claim(open: &mut $connection, claim: &JobClaim) -> StoreResult<Claimed> {
            let now = claim.now.as_millis();
            let max = claim.max.min(MOST_CLAIMED);
            sqlx::query("update jobs set ready = 1 where ready = 0 and run_at <= $1 and state in ('pending', 'retrying')")
                .bind(now)
                .execute(&mut *open)
                .await
                .map_err(failed)?;
            let mut claimed: Vec<ClaimedJob> = sqlx::query(
                "select * from jobs where state = 'running' and check_at <= $1 order by check_at limit $2",
            )
            .bind(now)
            .bind(i64::from(max))
            .fetch_all(&mut *open)
            .await
            .map_err(failed)?
            .iter()
            .filter_map(readable)
            .map(|job| ClaimedJob { job, begun_before: true })
            .collect();
            let ready: Vec<String> = sqlx::query_scalar(
                "with recursive line (tenant) as (select min(tenant) from jobs where ready = 1 union all \
                    select (select min(j.tenant) from jobs j where j.ready = 1 and j.tenant > line.tenant) from line where line.tenant is not null) \
                 select tenant from line where tenant is not null",
            )
            .fetch_all(&mut *open)
            .await
            .map_err(failed)?;
            let mut turns = Turns::new(claim, ready.iter().filter_map(|tenant| TenantId::from_suffix(tenant).ok()));
            let mut gates = gates(open).await?;
            let mut taken: Vec<(Place, Job)> = Vec::new();
            // Jobs that were read before: none of them is read again.
            let mut done: Vec<String> = Vec::new();
            let mut looks = 0;
            while looks < MOST_LOOKS {
                let dealt = turns.deal((max as usize).saturating_sub(taken.len()));
                if dealt.is_empty() {
                    break;
                }
                for (tenant, count) in dealt {
                    looks += 1;
                    let closed = gates.closed(tenant, claim.now);
                    let left_out: Vec<String> = closed.iter().chain(&done).cloned().collect();
                    let rows = sqlx::query(concat!(
                        "select * from jobs where ready = 1 and tenant = $3 and tenant || ' ' || queue not in ", $list,
                        " and tenant || ' ' || queue || '\n' || org not in ", $list, " and id not in ", $list,
                        " order by priority desc, run_at, id limit $2"
                    ))
                    .bind(json(&left_out))
                    .bind(i64::try_from(count).unwrap_or(i64::MAX))
                    .bind(tenant.suffix())
                    .fetch_all(&mut *open)
                    .await
                    .map_err(failed)?;
                    let before = done.len();
                    for row in &rows {
                        match readable(row) {
                            Some(job) if gates.admit(tenant, &job.queue, &job.order.scope.org, claim.now) => {
                                done.push(job.id.suffix());
                                taken.push((turns.take(tenant), job));
                            }
                            Some(_) => {}
                            None => done.push(row::job_id(row)?.suffix()),
                        }
                    }
                    let nothing_new = done.len() == before && gates.closed(tenant, claim.now).len() == closed.len();
                    if rows.len() < count || nothing_new {
                        turns.leave(tenant);
                    }
                }
            }
            taken.sort_by_key(|(place, _)| *place);
            claimed.extend(taken.into_iter().map(|(_, job)| ClaimedJob { job, begun_before: false }));
            let ids: Vec<String> = claimed.iter().map(|claimed| claimed.job.id.suffix()).collect();
            if !ids.is_empty() {
                // Of what was read, an attempt may have ended meanwhile: then it is no more to be had.
                let taken = sqlx::query(concat!(
                    "update jobs set check_at = $4 + case when state = 'running' then $3 - started_at else 0 end, heartbeat_at = $3, updated_at = $3, ready = 0, \
                        attempt = case when state = 'running' then attempt else attempt + 1 end, \
                        worker = case when state = 'running' then worker else $2 end, \
                        started_at = case when state = 'running' then started_at else $3 end, \
                        state = 'running' \
                     where (ready = 1 or state = 'running' and check_at <= $3) and id in ", $list, " returning id"
                ))
                .bind(json(&ids))
                .bind(claim.node.suffix())
                .bind(now)
                .bind(claim.check_at.as_millis())
                .fetch_all(&mut *open)
                .await
                .map_err(failed)?;
                let taken = taken.iter().map(row::job_id).collect::<StoreResult<std::collections::HashSet<JobId>>>()?;
                claimed.retain(|claimed| taken.contains(&claimed.job.id));
            }
            for ((tenant, name), gate) in gates.all.iter().filter(|(_, gate)| gate.changed) {
                sqlx::query("update job_queues set buckets = $3 where tenant = $1 and name = $2")
                    .bind(tenant.suffix())
                    .bind(name.clone())
                    .bind(json(&gate.buckets))
                    .execute(&mut *open)
                    .await
                    .map_err(failed)?;
            }
            claimed.iter_mut().for_each(|claimed| claimed.note(claim));
            Ok(Claimed { jobs: claimed, again_at: gates.again_at })
        }

        async fn gates(open: &mut $connection) -> StoreResult<Gates> {
            let rows = sqlx::query("select * from job_queues").fetch_all(&mut *open).await.map_err(failed)?;
            let mut gates = Gates::default();
            for row in &rows {
                let (tenant, name, gate) = row::gate(row)?;
                gates.all.insert((tenant, name), gate);
            }
            if gates.all.is_empty() {
                return Ok(gates);
            }
            let rows = sqlx::query(
                "select j.tenant, j.queue, j.org, count(*) as count from jobs j join job_queues q on q.tenant = j.tenant and q.name = j.queue \
                 where j.state = 'running' group by j.tenant, j.queue, j.org",
            )
            .fetch_all(&mut *open)
            .await
            .map_err(failed)?;
            for row in &rows {
                let (tenant, queue, org, count) = row::running(row)?;
                if let Some(gate) = gates.all.get_mut(&(tenant, queue)) {
                    *gate.running.entry(String::new()).or_default() += count;
                    if !org.is_empty() {
                        *gate.running.entry(org).or_default() += count;
                    }
                }
            }
            Ok(gates)
        }

        async fn state_of(open: &mut $connection, tenant: TenantId, id: JobId) -> StoreResult<Option<JobState>> {
            let found: Option<String> = sqlx::query_scalar("select state from jobs where id = $1 and tenant = $2")
                .bind(id.suffix())
                .bind(tenant.suffix())
                .fetch_optional(&mut *open)
                .await
                .map_err(failed)?;
            found.as_deref().map(row::job_state).transpose()
        }

        #[async_trait]
        impl Jobs for $store {
            async fn enqueue_job(&self, new: NewJob) -> StoreResult<Enqueued> {
                self.writer()?.enqueue(new).await
            }

            async fn end_job(&self, end: JobEnd) -> StoreResult<bool> {
                self.writer()?.end_job(end).await
            }

            async fn claim_jobs(&$this, claim: JobClaim) -> StoreResult<Claimed> {
                let $work = async move |open: &mut $connection| self::claim(open, &claim).await;
                $unit
            }

            async fn next_job(&$this, now: Timestamp) -> StoreResult<Option<Timestamp>> {
                let next: Option<i64> = sqlx::query_scalar(
                    "select min(at) from (select min(run_at) as at from jobs where ready = 0 and run_at > $1 and state in ('pending', 'retrying') \
                     union all select min(check_at) from jobs where state = 'running' and check_at > $1) as times",
                )
                .bind(now.as_millis())
                .fetch_one($read)
                .await
                .map_err(failed)?;
                Ok(next.map(Timestamp::from_millis))
            }

            async fn find_job(&$this, tenant: TenantId, id: JobId) -> StoreResult<Option<Job>> {
                let row = sqlx::query("select * from jobs where id = $1 and tenant = $2")
                    .bind(id.suffix())
                    .bind(tenant.suffix())
                    .fetch_optional($read)
                    .await
                    .map_err(failed)?;
                row.as_ref().map(row::job).transpose()
            }

            async fn list_jobs(&$this, tenant: TenantId, filter: JobFilter) -> StoreResult<Vec<Job>> {
                if !filter.queue.as_deref().is_none_or(is_plain) || !filter.name.as_deref().is_none_or(is_plain) {
                    return Ok(Vec::new());
                }
                let rows = sqlx::query(
                    "select * from jobs where tenant = $1 and (cast($2 as text) is null or state = $2) and (cast($3 as text) is null or queue = $3) \
                        and (cast($4 as text) is null or name = $4) and (cast($5 as text) is null or id > $5) order by id limit $6 offset $7",
                )
                .bind(tenant.suffix())
                .bind(filter.state.map(JobState::as_str))
                .bind(filter.queue)
                .bind(filter.name)
                .bind(filter.after.map(|id| id.suffix()))
                .bind(i64::from(filter.limit))
                .bind(i64::from(filter.offset))
                .fetch_all($read)
                .await
                .map_err(failed)?;
                rows.iter().map(row::job).collect()
            }

            async fn count_jobs(&$this, tenant: TenantId) -> StoreResult<Vec<JobCount>> {
                let rows = sqlx::query("select queue, state, count(*) as count from jobs where tenant = $1 group by queue, state order by queue, state")
                    .bind(tenant.suffix())
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                rows.iter().map(row::job_count).collect()
            }

            async fn move_job(
                &$this,
                tenant: TenantId,
                id: JobId,
                from: &[JobState],
                to: JobState,
                now: Timestamp,
            ) -> StoreResult<Option<JobState>> {
                let from: Vec<&'static str> = from.iter().map(|state| state.as_str()).collect();
                let $work = async move |open: &mut $connection| {
                    let Some(before) = state_of(open, tenant, id).await? else { return Ok(None) };
                    let again = to == JobState::Pending;
                    let moved = sqlx::query(concat!(
                        "update jobs set state = $2, ready = $3, check_at = null, worker = null, updated_at = $4, \
                            untold = case when $2 = 'cancelled' then 1 else 0 end, \
                            run_at = case when $3 = 1 then $4 else run_at end, \
                            retry_count = case when $3 = 1 then 0 else retry_count end, \
                            last_error = case when $3 = 1 then null else last_error end, \
                            started_at = case when $3 = 1 then null else started_at end, \
                            completed_at = case when $3 = 1 then null else $4 end \
                         where id = $5 and tenant = $6 and state = $7 and state in ", $list
                    ))
                    .bind(json(&from))
                    .bind(to.as_str())
                    .bind(i64::from(again))
                    .bind(now.as_millis())
                    .bind(id.suffix())
                    .bind(tenant.suffix())
                    .bind(before.as_str())
                    .execute(&mut *open)
                    .await
                    .map_err(failed)?;
                    if again && moved.rows_affected() > 0 {
                        sqlx::query("update dead_letters set replayed_at = $3, replayed_as = $1 where job = $1 and tenant = $2 and replayed_at is null")
                            .bind(id.suffix())
                            .bind(tenant.suffix())
                            .bind(now.as_millis())
                            .execute(&mut *open)
                            .await
                            .map_err(failed)?;
                    }
                    Ok(Some(before))
                };
                $unit
            }

            async fn delete_job(&$this, tenant: TenantId, id: JobId) -> StoreResult<Option<JobState>> {
                let $work = async move |open: &mut $connection| {
                    let before = state_of(open, tenant, id).await?;
                    sqlx::query("delete from jobs where id = $1 and tenant = $2 and state in ('completed', 'failed', 'cancelled')")
                        .bind(id.suffix())
                        .bind(tenant.suffix())
                        .execute(&mut *open)
                        .await
                        .map_err(failed)?;
                    Ok(before)
                };
                $unit
            }

            async fn untold_jobs(&$this, except: &[TenantId], limit: u32) -> StoreResult<Vec<Job>> {
                let untold = format!("select * from jobs where untold = 1{} order by id limit $1", row::except("tenant", except));
                let rows = sqlx::query(sqlx::AssertSqlSafe(untold)).bind(i64::from(limit)).fetch_all($read).await.map_err(failed)?;
                Ok(rows.iter().filter_map(readable).collect())
            }

            async fn job_told(&$this, tenant: TenantId, id: JobId) -> StoreResult<()> {
                sqlx::query("update jobs set untold = 0 where id = $1 and tenant = $2")
                    .bind(id.suffix())
                    .bind(tenant.suffix())
                    .execute($write)
                    .await
                    .map(drop)
                    .map_err(failed)
            }

            async fn find_dead(&$this, tenant: TenantId, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
                let row = sqlx::query("select * from dead_letters where id = $1 and tenant = $2")
                    .bind(id.suffix())
                    .bind(tenant.suffix())
                    .fetch_optional($read)
                    .await
                    .map_err(failed)?;
                row.as_ref().map(row::dead_letter).transpose()
            }

            async fn list_dead(&$this, tenant: TenantId, filter: DeadFilter) -> StoreResult<Vec<DeadLetter>> {
                if !filter.queue.as_deref().is_none_or(is_plain) {
                    return Ok(Vec::new());
                }
                let rows = sqlx::query(concat!(
                    "select * from dead_letters where ", dead_where!(),
                    " and (cast($5 as bigint) is null or (failed_at, id) > ($5, $6)) order by failed_at, id limit $7 offset $8"
                ))
                .bind(tenant.suffix())
                .bind(filter.queue)
                .bind(filter.before.map(Timestamp::as_millis))
                .bind(i64::from(filter.open))
                .bind(filter.after.map(|(at, _)| at.as_millis()))
                .bind(filter.after.map(|(_, id)| id.suffix()))
                .bind(i64::from(filter.limit))
                .bind(i64::from(filter.offset))
                .fetch_all($read)
                .await
                .map_err(failed)?;
                rows.iter().map(row::dead_letter).collect()
            }

            async fn count_dead(&$this, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64> {
                if !filter.queue.as_deref().is_none_or(is_plain) {
                    return Ok(0);
                }
                let count: i64 = sqlx::query_scalar(concat!("select count(*) from dead_letters where ", dead_where!()))
                    .bind(tenant.suffix())
                    .bind(filter.queue)
                    .bind(filter.before.map(Timestamp::as_millis))
                    .bind(i64::from(filter.open))
                    .fetch_one($read)
                    .await
                    .map_err(failed)?;
                Ok(u64::try_from(count).unwrap_or(0))
            }

            async fn replay_dead(&$this, tenant: TenantId, letter: &DeadLetter, job: Job, now: Timestamp) -> StoreResult<bool> {
                job.fit()?;
                let new = JobRow::of(&NewJob { job, key: None });
                let (id, seen) = (letter.id, letter.replayed_as);
                let $work = async move |open: &mut $connection| {
                    let noted = sqlx::query("update dead_letters set replayed_at = $3, replayed_as = $4 \
                        where id = $1 and tenant = $2 and coalesce(replayed_as, '') = $5")
                        .bind(id.suffix())
                        .bind(tenant.suffix())
                        .bind(now.as_millis())
                        .bind(new.id.clone())
                        .bind(seen.map(|job| job.suffix()).unwrap_or_default())
                        .execute(&mut *open)
                        .await
                        .map_err(failed)?;
                    if noted.rows_affected() == 0 {
                        return Ok(false);
                    }
                    sqlx::query(
                        "insert into jobs (tenant, id, queue, org, name, priority, state, ready, attempt, retry_count, run_at, body, created_at, updated_at) \
                         values ($1, $2, $3, $4, $5, $6, 'pending', 0, 0, 0, $7, $8, $9, $9) on conflict do nothing",
                    )
                    .bind(new.tenant)
                    .bind(new.id)
                    .bind(new.queue)
                    .bind(new.org)
                    .bind(new.name)
                    .bind(i64::from(new.priority))
                    .bind(new.run_at)
                    .bind(new.body)
                    .bind(new.created_at)
                    .execute(&mut *open)
                    .await
                    .map_err(failed)?;
                    Ok(true)
                };
                $unit
            }

            async fn purge_dead(&$this, tenant: TenantId, filter: DeadFilter) -> StoreResult<u64> {
                if !filter.queue.as_deref().is_none_or(is_plain) {
                    return Ok(0);
                }
                sqlx::query(concat!("delete from dead_letters where ", dead_where!()))
                    .bind(tenant.suffix())
                    .bind(filter.queue)
                    .bind(filter.before.map(Timestamp::as_millis))
                    .bind(i64::from(filter.open))
                    .execute($write)
                    .await
                    .map(|result| result.rows_affected())
                    .map_err(failed)
            }

            async fn put_queue(&$this, tenant: TenantId, queue: Queue) -> StoreResult<()> {
                queue.fit()?;
                sqlx::query(
                    "insert into job_queues (tenant, name, rules, buckets) values ($1, $2, $3, '{}') \
                     on conflict (tenant, name) do update set rules = excluded.rules",
                )
                .bind(tenant.suffix())
                .bind(queue.name)
                .bind(json(&queue.rules))
                .execute($write)
                .await
                .map(drop)
                .map_err(failed)
            }

            async fn list_queues(&$this, tenant: TenantId) -> StoreResult<Vec<Queue>> {
                let rows = sqlx::query("select * from job_queues where tenant = $1 order by name")
                    .bind(tenant.suffix())
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                rows.iter().map(|row| row::gate(row).map(|(_, name, gate)| Queue { name, rules: gate.rules })).collect()
            }

            async fn delete_queue(&$this, tenant: TenantId, name: &str) -> StoreResult<bool> {
                if !is_plain(name) {
                    return Ok(false);
                }
                sqlx::query("delete from job_queues where tenant = $1 and name = $2")
                    .bind(tenant.suffix())
                    .bind(name.to_owned())
                    .execute($write)
                    .await
                    .map(|result| result.rows_affected() > 0)
                    .map_err(failed)
            }
        }
    };
}
pub(in crate::store) use in_sql;

/// Which dead letters, by the first four arguments.
macro_rules! dead_where {
    () => {
        "tenant = $1 and (cast($2 as text) is null or queue = $2) and (cast($3 as bigint) is null or failed_at < $3) \
         and ($4 = 0 or replayed_at is null)"
    };
}
pub(in crate::store) use dead_where;

/// Why a job that did not win was not put in its queue.
macro_rules! explain {
    ($connection:ident, $new:ident) => {{
        let there = sqlx::query("select id from jobs where id = $1 and tenant = $2")
            .bind($new.job.id.suffix())
            .bind($new.job.tenant.suffix())
            .fetch_optional(&mut *$connection)
            .await
            .map_err(failed)?;
        if there.is_some() {
            return Ok(Enqueued::New);
        }
        let before: Option<String> = sqlx::query_scalar("select id from jobs where tenant = $1 and key = $2")
            .bind($new.job.tenant.suffix())
            .bind($new.key.clone())
            .fetch_optional(&mut *$connection)
            .await
            .map_err(failed)?;
        let before = before.ok_or(StoreError::Exists("the job"))?;
        JobId::from_suffix(&before).map(Enqueued::Before).map_err(|why| row::broken("jobs", "id", &before, why))
    }};
}
pub(in crate::store) use explain;
