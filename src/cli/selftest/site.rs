//! One test site: a database of its own, a server over it that may die at any time, and the outside world it acts on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::caller::Caller;
use super::dice::Dice;
use super::drive::Driver;
use super::ledger::{Arrived, Ledger};
use super::place::{Place, Store};
use super::story::{Story, Teller, slow_effect};
use super::told::{Breach, Told, Violation};
use super::verdict::judge;
use super::world::{Setup, World};
use super::{sink, upstream};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// How long runs may take to end after the last start.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a lease of the tested servers lasts.
pub const LEASE: Duration = Duration::from_secs(2);

/// A run in flight and what its caller was told so far.
pub struct Flight {
    pub story: Story,
    pub told: Arc<Mutex<Told>>,
}

/// What a site is made of.
#[derive(Debug, Clone)]
pub struct Ground {
    pub store: Store,
    /// A PostgreSQL database in which a schema may be made.
    pub database_url: Option<String>,
    /// Servers over the one database.
    pub nodes: usize,
    pub restart_database: Option<String>,
}

/// See the module.
pub struct Site {
    pub place: Place,
    /// The server, and others over the same database.
    pub world: World,
    fellows: Vec<World>,
    pub restart_database: Option<String>,
    pub clock: Clock,
    pub ledger: Arc<Ledger>,
    caller: Caller,
    sink: String,
    servants: Vec<AbortHandle>,
}

impl Site {
    pub async fn open(ground: &Ground, clock: &Clock) -> Result<Self> {
        let place = Place::new(ground.store, ground.database_url.as_deref(), clock).await?;
        let ledger = Arc::new(Ledger::new(clock.clone()));
        let (sink_listener, sink) = listen().await?;
        let (upstream_listener, upstream) = listen().await?;
        let servants = vec![
            tokio::spawn(sink::serve(sink_listener, ledger.clone(), clock.clone())).abort_handle(),
            tokio::spawn(upstream::serve(upstream_listener, ledger.clone())).abort_handle(),
        ];
        let key = format!("selftest-{:032x}", crate::id::NodeId::new(clock).as_u128());
        let mut environment = vec![
            ("DISPATCH_API_KEY".to_owned(), key.clone()),
            ("OPENAI_API_KEY".to_owned(), "selftest".to_owned()),
            ("OPENAI_BASE_URL".to_owned(), format!("http://{upstream}/v1")),
        ];
        environment.extend(place.url()?.map(|url| ("DISPATCH_DATABASE_URL".to_owned(), url)));
        let fixed =
            "--json serve --listen 127.0.0.1:0 --dev --grace-seconds 0 --rate-limit 0 --max-recoveries 1000 --log warn --lease-seconds";
        let mut arguments: Vec<_> = fixed.split(' ').chain([LEASE.as_secs().to_string().as_str(), "--data"]).map(Into::into).collect();
        arguments.push(place.data().into());
        let setup = Setup { arguments, environment, log: place.log(), clock: clock.clone() };
        let world = World::new(setup, ground.nodes);
        let fellows = (1..ground.nodes).map(|number| world.fellow(number)).collect();
        let caller = Caller::new(key, world.bases(), clock.clone())?;
        let (sink, restart_database) = (format!("http://{sink}"), ground.restart_database.clone());
        Ok(Self { place, world, fellows, restart_database, clock: clock.clone(), ledger, caller, sink, servants })
    }

    pub fn servers(&self) -> impl Iterator<Item = &World> {
        std::iter::once(&self.world).chain(&self.fellows)
    }

    pub fn teller(&self) -> Teller<'_> {
        Teller { sink: &self.sink }
    }

    /// Lets a caller tell a story, in a task of its own.
    pub fn fly(&self, story: Story, dice: Dice, tasks: &mut JoinSet<()>) -> Flight {
        let told = Arc::new(Mutex::new(Told::default()));
        let driver = Driver::new(self.caller.clone(), self.ledger.clone(), story.clone(), dice, told.clone());
        tasks.spawn(driver.drive());
        Flight { story, told }
    }

    /// Waits until the slow story of a walk is in the middle of its effect.
    pub async fn busy(&self, tag: &str) {
        let effect = slow_effect(tag);
        let waited = self.clock.instant();
        while !self.ledger.has(&effect) && waited.elapsed() < PATIENCE {
            self.caller.pause().await;
        }
    }

    /// Waits until all callers are done; those that are not by then are given up.
    pub async fn land(&self, tasks: &mut JoinSet<()>) {
        let landed = async { while tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = landed => {}
            () = self.clock.sleep(PATIENCE) => {}
        }
        tasks.abort_all();
    }

    /// Compares what was told with what happened, and with what the server says now.
    pub async fn judge(&self, flights: &[Flight]) -> Vec<Violation> {
        let (arrived, nothing) = (self.ledger.by_tag(), Arrived::new());
        let mut violations = Vec::new();
        for flight in flights {
            self.look_again(flight).await;
            let arrived = arrived.get(&flight.story.tag).unwrap_or(&nothing);
            violations.extend(judge(&flight.story, &flight.told.lock(), &self.ledger, arrived));
        }
        violations
    }

    /// What was accepted is there, and what had ended is still as it was.
    async fn look_again(&self, flight: &Flight) {
        let run = flight.told.lock().runs.first().cloned();
        let Some(run) = run else { return };
        let found = self.caller.get(&format!("/v1/executions/{run}")).await;
        let Some(found) = found else { return };
        let mut told = flight.told.lock();
        let status = found.body.get("status").and_then(serde_json::Value::as_str);
        if found.status != 200 {
            told.fault(Breach::Lost, format!("the run was accepted and is not found at the end ({})", found.status));
        } else if told.status.is_some() && (status != told.status.as_deref() || found.body.get("output") != Some(&told.output)) {
            let what = format!("the run had ended {:?} and is {status:?} now", told.status);
            told.fault(Breach::Lost, what);
        } else if told.status.is_none() {
            let (status, waits) = (status.unwrap_or_default(), found.body.get("waits").cloned().unwrap_or_default());
            told.fault(Breach::Stuck, format!("the run is {status} and waits for {waits}"));
        }
    }

    /// Ends the server and removes the site; keeps it when there is something to look at.
    pub async fn close(self, keep: bool) -> Result<Option<String>> {
        for server in self.servers() {
            server.kill().await?;
        }
        self.servants.iter().for_each(AbortHandle::abort);
        if keep {
            return Ok(Some(self.place.folder.display().to_string()));
        }
        self.place.remove().await;
        Ok(None)
    }
}

async fn listen() -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(Error::internal)?;
    let address = listener.local_addr().map_err(Error::internal)?;
    Ok((listener, address))
}
