//! The event broker: subscribers see what becomes of their tenant's jobs and runs while it happens.
//!
//! What runs do is read from their logs when the store says that these grew, on whichever node the run is advanced ([`mod@watch`]). What happens to a job
//! outside its runs, such as being put in its queue, is published by the node where it happens. Nothing is kept: a subscriber that is too slow
//! loses events, which is counted, and reads the job or the run to know where it stands.
//!
//! Must not know: sockets, frames, which scopes a caller holds.

mod watch;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc, watch as watch_channel};

use crate::clock::Timestamp;
use crate::id::{JobId, RunId, TenantId};
use crate::model::job::Job;

pub(super) use watch::watch;

/// Events that wait for one subscriber.
const MAX_WAITING: usize = 256;
/// Events that a subscriber with credits gets before it grants any.
const FIRST_CREDITS: i64 = 1_000;
/// Maximum length of a queue's name in a channel, in characters, as of the queues of jobs.
const MAX_QUEUE_NAME: usize = 255;
/// Credits that one grant may add.
const MAX_GRANT: i64 = 1_000_000;

/// What a subscriber can listen to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Everything.
    Firehose,
    /// All jobs.
    Jobs,
    /// All runs.
    Workflows,
    Job(JobId),
    Workflow(RunId),
    /// The jobs of one queue.
    Queue(String),
}

impl Channel {
    /// Reads a channel's name; `None` when there is no such channel.
    pub fn parse(text: &str) -> Option<Self> {
        match (text, text.split_once(':')) {
            ("firehose", _) => Some(Self::Firehose),
            ("jobs", _) => Some(Self::Jobs),
            ("workflows", _) => Some(Self::Workflows),
            (_, Some(("job", id))) => id.parse().ok().map(Self::Job),
            (_, Some(("workflow", id))) => id.parse().ok().map(Self::Workflow),
            (_, Some(("queue", name))) if (1..=MAX_QUEUE_NAME).contains(&name.chars().count()) => Some(Self::Queue(name.to_owned())),
            _ => None,
        }
    }

    /// Whether what it carries is about jobs.
    pub const fn carries_jobs(&self) -> bool {
        matches!(self, Self::Firehose | Self::Jobs | Self::Job(_) | Self::Queue(_))
    }

    /// Whether what it carries is about runs.
    pub const fn carries_runs(&self) -> bool {
        matches!(self, Self::Firehose | Self::Workflows | Self::Workflow(_))
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firehose => f.write_str("firehose"),
            Self::Jobs => f.write_str("jobs"),
            Self::Workflows => f.write_str("workflows"),
            Self::Job(id) => write!(f, "job:{id}"),
            Self::Workflow(id) => write!(f, "workflow:wfrun_{}", id.suffix()),
            Self::Queue(name) => write!(f, "queue:{name}"),
        }
    }
}

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Job {
        id: JobId,
        queue: String,
    },
    Run(RunId),
    /// A cron entry that put this job in its queue.
    Cron(JobId),
}

/// Something that happened to a job or a run.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEvent {
    /// As `job.completed`.
    pub kind: &'static str,
    pub at: Timestamp,
    pub data: Value,
    subject: Subject,
}

impl StreamEvent {
    /// An event of a job. `more`: what is said besides which job it is.
    pub fn of_job(kind: &'static str, job: &Job, at: Timestamp, more: Value) -> Self {
        let mut data = json!({
            "job_id": job.id, "job_name": job.order.name, "queue": job.queue,
            "scope_app_id": job.order.scope.app, "scope_org_id": job.order.scope.org,
        });
        add(&mut data, more);
        Self { kind, at, data, subject: Subject::Job { id: job.id, queue: job.queue.clone() } }
    }

    /// An event of a run.
    pub fn of_run(kind: &'static str, run: RunId, name: &str, at: Timestamp, more: Value) -> Self {
        let mut data = json!({ "run_id": format!("wfrun_{}", run.suffix()), "name": name });
        add(&mut data, more);
        Self { kind, at, data, subject: Subject::Run(run) }
    }

    /// The event of a cron entry that fired.
    pub fn of_cron(entry: &str, job: JobId, at: Timestamp) -> Self {
        Self { kind: "cron.fired", at, data: json!({ "entry_name": entry, "job_id": job }), subject: Subject::Cron(job) }
    }

    /// The channel of the one thing that it is about.
    pub fn topic(&self) -> Channel {
        match &self.subject {
            Subject::Job { id, .. } => Channel::Job(*id),
            Subject::Run(id) => Channel::Workflow(*id),
            Subject::Cron(_) => Channel::Firehose,
        }
    }

    fn reaches(&self, channel: &Channel) -> bool {
        match (channel, &self.subject) {
            (Channel::Firehose, _) | (Channel::Jobs, Subject::Job { .. }) | (Channel::Workflows, Subject::Run(_)) => true,
            (Channel::Job(wanted), Subject::Job { id, .. }) => wanted == id,
            (Channel::Queue(wanted), Subject::Job { queue, .. }) => wanted == queue,
            (Channel::Workflow(wanted), Subject::Run(id)) => wanted == id,
            _ => false,
        }
    }
}

/// Adds the members that are not null.
fn add(data: &mut Value, more: Value) {
    if let (Value::Object(data), Value::Object(more)) = (data, more) {
        data.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
    }
}

/// An event on its way to a subscriber.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The channel that the subscriber listens to.
    pub channel: Channel,
    pub event: Arc<StreamEvent>,
}

/// How much goes to the subscribers of one tenant on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BrokerStats {
    /// Channels that somebody listens to.
    pub topics: u64,
    pub subscribers: u64,
    /// Events that the present subscribers were given.
    pub published: u64,
    /// Events that they lost.
    pub dropped: u64,
}

/// See the module. Cheap to clone.
#[derive(Clone, Default)]
pub struct Broker(Arc<Inner>);

#[derive(Default)]
struct Inner {
    subscribers: RwLock<HashMap<u64, Arc<Subscriber>>>,
    next: AtomicU64,
    subscribed: Notify,
    /// Whether runs are watched. Nobody watches them before somebody listens.
    watching: watch_channel::Sender<bool>,
}

struct Subscriber {
    tenant: TenantId,
    /// Nothing older is given to it.
    since: Timestamp,
    channels: Mutex<Vec<Channel>>,
    sender: mpsc::Sender<Delivery>,
    sent: AtomicI64,
    /// Credits that it granted; none: it does not count them.
    granted: AtomicI64,
    dropped: AtomicU64,
}

impl Subscriber {
    fn listens_to(&self, event: &StreamEvent) -> Option<Channel> {
        self.channels.lock().iter().find(|channel| event.reaches(channel)).cloned()
    }

    fn has_credit(&self) -> bool {
        let granted = self.granted.load(Ordering::Relaxed);
        granted == 0 || self.sent.load(Ordering::Relaxed) < granted.saturating_add(FIRST_CREDITS)
    }

    fn give(&self, delivery: Delivery) {
        if self.has_credit() && self.sender.try_send(delivery).is_ok() {
            self.sent.fetch_add(1, Ordering::Relaxed);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Broker {
    /// Adds a subscriber, which listens to nothing yet.
    pub fn subscribe(&self, tenant: TenantId, now: Timestamp) -> Subscription {
        let (sender, events) = mpsc::channel(MAX_WAITING);
        let subscriber = Arc::new(Subscriber {
            tenant,
            since: now,
            channels: Mutex::default(),
            sender,
            sent: AtomicI64::new(0),
            granted: AtomicI64::new(0),
            dropped: AtomicU64::new(0),
        });
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.subscribers.write().insert(id, subscriber.clone());
        Subscription { broker: self.clone(), id, subscriber, events }
    }

    /// Gives an event to everybody of the tenant who listens to it. Never waits.
    pub fn publish(&self, tenant: TenantId, event: StreamEvent) {
        let event = Arc::new(event);
        let subscribers: Vec<Arc<Subscriber>> =
            self.0.subscribers.read().values().filter(|one| one.tenant == tenant && one.since <= event.at).cloned().collect();
        for subscriber in subscribers {
            if let Some(channel) = subscriber.listens_to(&event) {
                subscriber.give(Delivery { channel, event: event.clone() });
            }
        }
    }

    /// Whether anybody of the tenant listens to anything.
    pub fn has_listeners(&self, tenant: TenantId) -> bool {
        self.0.subscribers.read().values().any(|one| one.tenant == tenant && !one.channels.lock().is_empty())
    }

    /// The tenants of which somebody listens.
    fn tenants(&self) -> BTreeSet<TenantId> {
        self.0.subscribers.read().values().filter(|one| !one.channels.lock().is_empty()).map(|one| one.tenant).collect()
    }

    /// Completes when somebody began to listen.
    async fn until_subscribed(&self) {
        self.0.subscribed.notified().await;
    }

    /// Says that what runs do is published from now on, or that it will not be: the server stops.
    fn set_watching(&self) {
        self.0.watching.send_replace(true);
    }

    /// What goes to the tenant's subscribers here.
    pub fn stats(&self, tenant: TenantId) -> BrokerStats {
        let subscribers = self.0.subscribers.read();
        let (mut stats, mut topics) = (BrokerStats::default(), BTreeSet::new());
        for subscriber in subscribers.values().filter(|one| one.tenant == tenant) {
            stats.subscribers += 1;
            stats.published += u64::try_from(subscriber.sent.load(Ordering::Relaxed)).unwrap_or(0);
            stats.dropped += subscriber.dropped.load(Ordering::Relaxed);
            topics.extend(subscriber.channels.lock().iter().cloned());
        }
        BrokerStats { topics: topics.len() as u64, ..stats }
    }
}

/// A subscriber's end; dropping it ends the subscription.
pub struct Subscription {
    broker: Broker,
    id: u64,
    subscriber: Arc<Subscriber>,
    events: mpsc::Receiver<Delivery>,
}

impl Subscription {
    /// Listens to a channel, too. `false`: it listens to `max` channels already.
    pub fn add(&self, channel: Channel, max: usize) -> bool {
        let mut channels = self.subscriber.channels.lock();
        if !channels.contains(&channel) {
            if channels.len() >= max {
                return false;
            }
            channels.push(channel);
        }
        drop(channels);
        self.broker.0.subscribed.notify_one();
        true
    }

    /// Completes when what happens from now on reaches it.
    pub async fn until_watched(&self) {
        let mut watching = self.broker.0.watching.subscribe();
        // Fails only if the broker is gone, which this subscription keeps.
        let _ = watching.wait_for(|watching| *watching).await;
    }

    /// Listens to a channel no more.
    pub fn remove(&self, channel: &Channel) {
        self.subscriber.channels.lock().retain(|known| known != channel);
    }

    /// Lets so many more events come. A subscriber that never says so is not limited by credits.
    pub fn grant(&self, credits: i64) {
        let granted = &self.subscriber.granted;
        let next = granted.load(Ordering::Relaxed).saturating_add(credits.clamp(0, MAX_GRANT));
        granted.store(next, Ordering::Relaxed);
    }

    /// Waits for the next event. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        self.events.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.broker.0.subscribers.write().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const TENANT: TenantId = TenantId::from_u128(1);

    fn ran(run: u128) -> StreamEvent {
        StreamEvent::of_run("workflow.completed", RunId::from_u128(run), "f", NOW, json!({ "error": null }))
    }

    fn waiting(subscription: &mut Subscription) -> Vec<String> {
        std::iter::from_fn(|| subscription.events.try_recv().ok()).map(|delivery| delivery.channel.to_string()).collect()
    }

    #[test]
    fn channels_are_read_as_they_are_written() {
        let run = format!("workflow:wfrun_{}", RunId::from_u128(7).suffix());
        for text in ["firehose", "jobs", "workflows", "queue:mail", "queue:a:b", run.as_str()] {
            assert_eq!(Channel::parse(text).map(|channel| channel.to_string()).as_deref(), Some(text));
        }
        for wrong in ["", "job", "job:", "job:x", "queue:", "crons", "workflow:job_00000000000000000000000007"] {
            assert_eq!(Channel::parse(wrong), None, "{wrong}");
        }
        let queue = |length: usize| Channel::parse(&format!("queue:{}", "é".repeat(length)));
        assert!(queue(MAX_QUEUE_NAME).is_some() && queue(MAX_QUEUE_NAME + 1).is_none(), "subscribers keep the names");
    }

    #[test]
    fn an_event_comes_once_and_to_its_tenant_only() {
        let broker = Broker::default();
        let (mut one, mut other) = (broker.subscribe(TENANT, NOW), broker.subscribe(TenantId::from_u128(2), NOW));
        for channel in [Channel::Workflow(RunId::from_u128(1)), Channel::Workflows, Channel::Firehose] {
            assert!(one.add(channel.clone(), 3) && other.add(channel, 3));
        }
        assert!(!one.add(Channel::Jobs, 3));
        broker.publish(TENANT, ran(1));
        broker.publish(TENANT, ran(2));
        assert_eq!(waiting(&mut one), [Channel::Workflow(RunId::from_u128(1)).to_string(), "workflows".into()]);
        assert_eq!(waiting(&mut other), Vec::<String>::new());
        broker.publish(TENANT, StreamEvent { at: NOW.before(std::time::Duration::from_millis(1)), ..ran(1) });
        assert_eq!(waiting(&mut one), Vec::<String>::new(), "it happened before");
        assert!(broker.has_listeners(TENANT));
        drop(one);
        assert!(!broker.has_listeners(TENANT));
    }

    #[test]
    fn a_slow_subscriber_loses_events_and_that_is_counted() {
        let broker = Broker::default();
        let mut slow = broker.subscribe(TENANT, NOW);
        slow.add(Channel::Firehose, 1);
        (0..300).for_each(|run| broker.publish(TENANT, ran(run)));
        let stats = broker.stats(TENANT);
        assert_eq!((stats.topics, stats.subscribers, stats.published, stats.dropped), (1, 1, 256, 44));
        assert_eq!(waiting(&mut slow).len(), 256);
    }

    #[test]
    fn credits_count_once_they_are_granted() {
        let broker = Broker::default();
        let mut subscription = broker.subscribe(TENANT, NOW);
        subscription.add(Channel::Firehose, 1);
        let mut given = 0;
        let mut publish = |subscription: &mut Subscription, count: u128| {
            for run in 0..count {
                broker.publish(TENANT, ran(run));
                given += waiting(subscription).len();
            }
            given
        };
        assert_eq!(publish(&mut subscription, 1_100), 1_100);
        subscription.grant(200);
        assert_eq!(publish(&mut subscription, 200), 1_200);
        subscription.grant(5);
        assert_eq!(publish(&mut subscription, 200), 1_205);
    }
}
