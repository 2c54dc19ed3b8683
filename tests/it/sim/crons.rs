//! Crons around every change of clocks of ten zones, with two schedulers that are killed again and again and a store that loses answers: each slot
//! becomes one job.

use std::sync::Arc;
use std::time::Duration;

use dispatch::app::App;
use dispatch::clock::{Clock, Timestamp};
use dispatch::config::Config;
use dispatch::id::{CronId, KeyId, TenantId};
use dispatch::model::job::{JobScope, Order, Placed};
use dispatch::queue::crons::{self, CatchUp, Cron, Overlap};
use dispatch::store::faulty::{Faulty, Plan};
use dispatch::store::memory::MemoryStore;
use dispatch::store::{ApiKey, Collection, JobFilter, SharedStore, Tenant};
use jiff::tz::TimeZone;

const ZONES: [&str; 10] = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/Havana",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Beirut",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "America/St_Johns",
];
const BEFORE: Duration = Duration::from_secs(10 * 60);
const AFTER: Duration = Duration::from_secs(50 * 60);

fn entry(schedule: String, zone: &str, now: Timestamp) -> Cron {
    let order = Order {
        name: "nothing".into(),
        payload: serde_json::Value::Null,
        callback: None,
        max_retries: 0,
        timeout_ms: None,
        scope: JobScope::default(),
        key_id: None,
        cron: None,
        replay_of: None,
    };
    let mut entry = Cron {
        name: schedule.clone(),
        schedule,
        timezone: zone.into(),
        enabled: true,
        placed: Placed { queue: "default".into(), priority: 0, order },
        catch_up: CatchUp::All,
        catch_up_max: 100,
        overlap: Overlap::Allow,
        jitter_ms: 0,
        next: None,
        last: None,
        last_job: None,
    };
    entry.next = entry.cadence().unwrap().next(now);
    entry
}

/// Two servers over one store, whose schedulers are killed after a random while and started again.
async fn schedule(store: SharedStore, clock: Clock, folder: std::path::PathBuf) {
    let mut config = Config::new(folder);
    // What else a server does would take most of the time.
    let rarely = Duration::from_secs(600);
    (config.limits.jobs.poll, config.limits.workers.poll, config.limits.workers.lease) = (rarely, rarely, rarely);
    let node = async || {
        let app = loop {
            match App::with_store(&config, clock.clone(), store.clone()).await {
                Ok(app) => break app,
                Err(_) => clock.sleep(Duration::from_millis(50)).await,
            }
        };
        loop {
            let life = Duration::from_millis(200 + clock.below(10 * 60 * 1_000));
            // Wherever it is by then, it is there no more.
            let _ = tokio::time::timeout(life, crons::beat(app.state.jobs.clone())).await;
        }
    };
    tokio::join!(node(), node());
}

/// The minute in which a job was made.
fn slot_of(made: Timestamp) -> Timestamp {
    Timestamp::from_millis(made.as_millis() / 60_000 * 60_000)
}

/// The slots of an entry in a stretch of time that became jobs, and those that should have.
async fn around(zone: &str, change: Timestamp, seed: u64) {
    let begin = change.before(BEFORE);
    let clock = Clock::simulated(seed, begin);
    let plan = Plan { before: 20, after: 20, delay: Duration::from_millis(30), ..Plan::default() };
    let plain: SharedStore = Arc::new(MemoryStore::new());
    let tenant = TenantId::new(&clock);
    let key = ApiKey {
        id: KeyId::new(&clock),
        tenant,
        name: "x".into(),
        hash: "x".into(),
        hint: "x".into(),
        scopes: vec!["*".into()],
        created_at: begin,
        expires_at: None,
        revoked_at: None,
    };
    plain.create_tenant(Tenant { id: tenant, name: "x".into(), created_at: begin }, key).await.unwrap();
    // What the clocks on the wall show just before the change, and in the hour after it.
    let local = jiff::Timestamp::from_millisecond(change.as_millis() - 1).unwrap().to_zoned(TimeZone::get(zone).unwrap());
    let hours = [local.hour(), (local.hour() + 1) % 24];
    let schedules = hours.iter().map(|hour| format!("30 {hour} * * *")).chain(["*/15 * * * *".into(), format!("0 {} * * *", hours[1])]);
    let all: Collection<'_, Cron> = Collection::of(&*plain, tenant);
    let mut entries = Vec::new();
    for schedule in schedules {
        let (id, cron) = (CronId::new(&clock), entry(schedule, zone, begin));
        all.create(id, cron.clone(), begin).await.unwrap();
        entries.push((id, cron));
    }
    let faulty: SharedStore = Arc::new(Faulty::new(plain.clone(), clock.clone(), plan));
    let folder = tempfile::tempdir().unwrap();
    let world = tokio::spawn(schedule(faulty, clock.clone(), folder.path().to_owned()));
    clock.sleep(BEFORE + AFTER).await;
    // The last slot has as long as a scheduler may be away.
    let end = clock.now();
    clock.sleep(Duration::from_secs(30)).await;
    world.abort();
    let jobs = plain.list_jobs(tenant, JobFilter { limit: 10_000, ..JobFilter::default() }).await.unwrap();
    for (id, cron) in entries {
        let mut fired: Vec<Timestamp> = jobs.iter().filter(|job| job.order.cron == Some(id)).map(|job| slot_of(job.created_at)).collect();
        fired.retain(|slot| *slot <= end);
        fired.sort_unstable();
        let due: Vec<Timestamp> = cron.cadence().unwrap().following(begin).take_while(|slot| *slot <= end).collect();
        assert_eq!(fired, due, "{zone}, {}, seed {seed}: each slot once", cron.schedule);
    }
}

#[tokio::test(start_paused = true)]
async fn every_slot_around_a_change_of_clocks_is_one_job() {
    let year = jiff::Timestamp::from_millisecond(1_767_225_600_000).unwrap();
    let mut changes = 0;
    for (number, zone) in ZONES.iter().enumerate() {
        let tz = TimeZone::get(zone).unwrap();
        let of_year = tz.following(year).take_while(|change| change.timestamp().as_second() < year.as_second() + 366 * 86_400);
        for (nth, change) in of_year.enumerate() {
            let at = Timestamp::from_millis(change.timestamp().as_millisecond());
            around(zone, at, (number * 10 + nth) as u64).await;
            changes += 1;
        }
    }
    assert!(changes >= 18, "{changes} changes of clocks were seen");
}
