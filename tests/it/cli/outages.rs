//! The database goes away and comes back while callers keep coming: what was accepted is there, what could not be kept was refused, and `/readyz` says how
//! it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ran::{Server, Shell};
use crate::store::site::Database;
use crate::support::call::{Call, client};

/// Callers that call one after the other.
const CALLERS: usize = 8;
/// How long `/readyz` may say what is not so any more.
const STALE: Duration = Duration::from_secs(2);
/// How long anything else may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);

const KEY: &str = "key-for-the-test-of-outages";
const OPTIONS: &[&str] = &["--log", "off", "--rate-limit", "0"];
const VARIABLES: &[(&str, &str)] =
    &[("DISPATCH_API_KEY", KEY), ("DISPATCH_MASTER_KEY", "0707070707070707070707070707070707070707070707070707070707070707")];

/// What one caller was answered.
#[derive(Default)]
struct Tally {
    accepted: Mutex<Vec<String>>,
    refused: AtomicUsize,
}

impl Tally {
    fn accepted(&self) -> usize {
        self.accepted.lock().len()
    }

    fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Servers over one database, and their callers.
struct Load {
    client: reqwest::Client,
    servers: Vec<String>,
    tallies: Vec<Tally>,
    /// The database takes no write, as the servers know.
    is_away: AtomicBool,
    is_over: AtomicBool,
}

fn request() -> Value {
    let step = json!({ "id": "a", "type": "set-variable", "config": { "variableName": "a", "value": 1 } });
    json!({ "async": true, "flow": { "name": "Load", "steps": [step] } })
}

impl Load {
    fn start(servers: &[Server]) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let load = Arc::new(Self {
            client: client(),
            servers: servers.iter().map(|server| server.url.clone()).collect(),
            tallies: (0..CALLERS).map(|_| Tally::default()).collect(),
            is_away: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let callers = (0..CALLERS).map(|caller| tokio::spawn(load.clone().keep_calling(caller))).collect();
        (load, callers)
    }

    fn get(&self, caller: usize, path: &str) -> Call {
        let server = &self.servers[caller % self.servers.len()];
        Call::new(self.client.get(format!("{server}{path}"))).bearer(KEY)
    }

    async fn keep_calling(self: Arc<Self>, caller: usize) {
        let address = format!("{}/v1/dispatch", self.servers[caller % self.servers.len()]);
        let tally = &self.tallies[caller];
        while !self.is_over.load(Ordering::Relaxed) {
            let was_away = self.is_away.load(Ordering::SeqCst);
            let answer = Call::new(self.client.post(&address)).bearer(KEY).json(&request()).send().await;
            let is_away = was_away && self.is_away.load(Ordering::SeqCst);
            match answer.status {
                202 => {
                    assert!(!is_away, "accepted while the database was away: {}", answer.text());
                    tally.accepted.lock().push(answer.json()["executionId"].as_str().unwrap().to_owned());
                }
                503 => {
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                }
                other => panic!("{other}: {}", answer.text()),
            }
        }
    }

    /// Waits until each caller was answered so that many times more.
    async fn each(&self, answered: fn(&Tally) -> usize, times: usize, what: &str) {
        let before: Vec<usize> = self.tallies.iter().map(answered).collect();
        let look = async {
            while self.tallies.iter().zip(&before).any(|(tally, before)| answered(tally) < before + times) {
                sleep(PAUSE).await;
            }
        };
        assert!(timeout(LIMIT, look).await.is_ok(), "not every caller was {what}");
    }

    /// Waits until `/readyz` says so on every server.
    async fn says(&self, ready: bool) {
        let look = async {
            for server in 0..self.servers.len() {
                loop {
                    let answer = self.get(server, "/readyz").send().await;
                    let fits = match answer.status {
                        200 => ready,
                        503 => !ready && answer.json()["code"] == "store_unavailable",
                        _ => false,
                    };
                    if fits {
                        break;
                    }
                    sleep(PAUSE).await;
                }
            }
        };
        assert!(timeout(STALE, look).await.is_ok(), "/readyz does not say within {STALE:?} that ready is {ready}");
    }

    /// Looks for what was accepted last: it is there, or the server says that it cannot look.
    async fn finds_the_last(&self, may_refuse: bool) {
        let looks = (0..CALLERS).map(|caller| {
            let last = self.tallies[caller].accepted.lock().last().cloned().unwrap();
            self.get(caller, &format!("/v1/executions/{last}")).send()
        });
        for answer in join_all(looks).await {
            assert!(answer.status == 200 || may_refuse && answer.status == 503, "{}: {}", answer.status, answer.text());
        }
    }

    /// The database goes away until each caller was refused, and comes back.
    async fn outage(&self, goes: impl Future<Output = ()>, comes: impl Future<Output = ()>) {
        self.each(Tally::accepted, 10, "accepted").await;
        goes.await;
        self.says(false).await;
        self.is_away.store(true, Ordering::SeqCst);
        self.each(Tally::refused, 1, "refused").await;
        self.finds_the_last(true).await;
        self.is_away.store(false, Ordering::SeqCst);
        comes.await;
        self.says(true).await;
        self.each(Tally::accepted, 5, "accepted again").await;
        self.finds_the_last(false).await;
    }

    /// Lets the callers go; every execution that was accepted.
    async fn stop(&self, callers: Vec<JoinHandle<()>>) -> Vec<String> {
        self.is_over.store(true, Ordering::Relaxed);
        join_all(callers).await.into_iter().for_each(Result::unwrap);
        self.tallies.iter().flat_map(|tally| tally.accepted.lock().clone()).collect()
    }
}

/// Each of these executions is there, and comes to its end.
async fn all_end(server: &Server, accepted: &[String]) {
    let client = client();
    let look = async {
        for execution in accepted {
            let look = || Call::new(client.get(format!("{}/v1/executions/{execution}", server.url))).bearer(KEY).ok();
            while look().await["status"] != "completed" {
                sleep(PAUSE).await;
            }
        }
    };
    assert!(timeout(LIMIT, look).await.is_ok(), "of {} accepted executions some do not end", accepted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_when_the_file_is_deleted_or_replaced() {
    let shell = Shell::new();
    let servers = [Server::start_with(&shell, "data", OPTIONS, VARIABLES)];
    let [file, aside, older] = ["data/dispatch.db", "aside.db", "older.db"].map(|name| PathBuf::from(shell.path(name)));
    std::fs::copy(&file, &older).unwrap();
    let (load, callers) = Load::start(&servers);
    for replaced in [false, true] {
        let goes = async {
            std::fs::rename(&file, &aside).unwrap();
            if replaced {
                std::fs::copy(&older, &file).unwrap();
            }
        };
        load.outage(goes, async { std::fs::rename(&aside, &file).unwrap() }).await;
    }
    let accepted = load.stop(callers).await;
    // Killed: what is there now is what was durable.
    drop(servers);
    all_end(&Server::start_with(&shell, "data", OPTIONS, VARIABLES), &accepted).await;
}

async fn a_primary_is_demoted(database: &Database) {
    let url = database.url();
    let (shell, options) = (Shell::new(), [OPTIONS, &["--database-url", url.as_str()]].concat());
    let start = |name: &str| Server::start_with(&shell, name, &options, VARIABLES);
    let servers = [start("first"), start("second")];
    let (load, callers) = Load::start(&servers);
    for _ in 0..2 {
        let goes = async {
            database.alter("set default_transaction_read_only = on").await;
            database.cut().await;
        };
        load.outage(goes, database.alter("reset default_transaction_read_only")).await;
    }
    let accepted = load.stop(callers).await;
    drop(servers);
    all_end(&start("third"), &accepted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_accepted_is_lost_when_a_primary_is_demoted() {
    let database = Arc::new(Database::create("").await);
    let result = tokio::spawn({
        let database = database.clone();
        async move { a_primary_is_demoted(&database).await }
    })
    .await;
    database.remove().await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic.into_panic());
    }
}
