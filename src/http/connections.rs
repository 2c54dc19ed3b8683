//! Admits connections, and closes idle ones to make room.
//!
//! There is a limit on all connections and one for each peer, so that one peer cannot shut out the others. When a limit is
//! reached, the connection that has been idle for longest is closed: it waits for its client's next request, or for the
//! rest of its first one. A new connection is refused only if no connection is idle.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// The connections of one server.
pub(super) struct Connections {
    clock: Clock,
    max: usize,
    max_per_peer: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    next_id: u64,
    all: HashMap<u64, Arc<Connection>>,
    by_peer: HashMap<IpAddr, usize>,
}

/// One connection.
pub(super) struct Connection {
    id: u64,
    /// The peer that it counts towards; `None` for peers that are not counted.
    peer: Option<IpAddr>,
    clock: Clock,
    activity: Mutex<Activity>,
    cut: CancellationToken,
}

struct Activity {
    /// Requests whose responses are not sent completely.
    requests: usize,
    /// Those of them whose bodies have not arrived completely.
    uploads: usize,
    /// When the last response was completed; before the first one, when the connection began.
    idle_since: Instant,
}

/// A slot for a connection; dropping it frees the slot.
pub(super) struct Place {
    pub connection: Arc<Connection>,
    connections: Arc<Connections>,
}

impl Connections {
    pub fn new(clock: Clock, max: usize, max_per_peer: usize) -> Arc<Self> {
        Arc::new(Self { clock, max, max_per_peer, held: Mutex::default() })
    }

    /// Returns a slot for a new connection, closing an idle one if necessary; `None` if no connection is idle.
    pub fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let peer = peer(address);
        let mut held = self.held.lock();
        let of_peer = peer.and_then(|peer| held.by_peer.get(&peer).copied()).unwrap_or(0);
        if of_peer >= self.max_per_peer && !held.cut_idlest(peer) {
            return None;
        }
        if held.all.len() >= self.max && !held.cut_idlest(None) {
            return None;
        }
        let connection = held.add(peer, &self.clock);
        Some(Place { connection, connections: self.clone() })
    }

    /// Closes an idle connection to free its file descriptor, if there is one.
    pub fn make_room(&self) -> bool {
        self.held.lock().cut_idlest(None)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.held.lock().remove(self.connection.id);
    }
}

impl Held {
    fn add(&mut self, peer: Option<IpAddr>, clock: &Clock) -> Arc<Connection> {
        let id = self.next_id;
        self.next_id += 1;
        let activity = Mutex::new(Activity { requests: 0, uploads: 0, idle_since: clock.instant() });
        let connection = Arc::new(Connection { id, peer, clock: clock.clone(), activity, cut: CancellationToken::new() });
        self.all.insert(id, connection.clone());
        if let Some(peer) = peer {
            *self.by_peer.entry(peer).or_default() += 1;
        }
        connection
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Connection>> {
        let connection = self.all.remove(&id)?;
        if let Some(peer) = connection.peer
            && let Some(count) = self.by_peer.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&peer);
            }
        }
        Some(connection)
    }

    /// Closes the connection, of a peer or of all, that has been idle for longest. Returns whether there was one.
    fn cut_idlest(&mut self, peer: Option<IpAddr>) -> bool {
        let of_peer = self.all.values().filter(|connection| peer.is_none() || connection.peer == peer);
        let idlest = of_peer.filter_map(|connection| Some((connection.idle_since()?, connection.id))).min();
        let Some(connection) = idlest.and_then(|(_, id)| self.remove(id)) else { return false };
        connection.cut.cancel();
        true
    }
}

impl Connection {
    /// Completes when the connection is to be closed to make room.
    pub async fn until_cut(&self) {
        self.cut.cancelled().await;
    }

    /// Wraps the router in a service that counts this connection's requests.
    pub fn counting(self: &Arc<Self>, router: Router) -> CountingService {
        CountingService { connection: self.clone(), inner: TowerToHyperService::new(router) }
    }

    fn idle_since(&self) -> Option<Instant> {
        let activity = self.activity.lock();
        // A request whose body does not come is no work.
        (activity.requests == activity.uploads).then_some(activity.idle_since)
    }

    fn begin(self: &Arc<Self>) -> RequestGuard {
        self.activity.lock().requests += 1;
        RequestGuard(self.clone())
    }
}

/// A request whose body has not arrived completely.
struct UploadGuard(Arc<Connection>);

impl UploadGuard {
    fn begin(connection: &Arc<Connection>) -> Self {
        let now = connection.clock.instant();
        let mut activity = connection.activity.lock();
        activity.uploads += 1;
        activity.idle_since = now;
        Self(connection.clone())
    }
}

impl Drop for UploadGuard {
    fn drop(&mut self) {
        self.0.activity.lock().uploads -= 1;
    }
}

/// The body of a request. Until it has arrived, the connection counts as idle.
pub(super) struct CountedUpload {
    body: Incoming,
    guard: Option<UploadGuard>,
}

impl http_body::Body for CountedUpload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if self.body.is_end_stream() || matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.guard = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request whose response is not sent completely.
struct RequestGuard(Arc<Connection>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let now = self.0.clock.instant();
        let mut activity = self.0.activity.lock();
        activity.requests -= 1;
        activity.idle_since = now;
    }
}

/// Returns the peer that an address counts towards. IPv6 addresses count by network (/64). Loopback addresses are not
/// counted: a local proxy may act for all callers.
fn peer(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    if address.is_loopback() {
        return None;
    }
    Some(match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(whole) => IpAddr::V6(Ipv6Addr::from_bits(whole.to_bits() & !u128::from(u64::MAX))),
    })
}

/// The router, for one connection.
pub(super) struct CountingService {
    connection: Arc<Connection>,
    inner: TowerToHyperService<Router>,
}

impl Service<Request<Incoming>> for CountingService {
    type Response = Response<CountedBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let guard = self.connection.begin();
        let upload = |body: Incoming| {
            let guard = (!body.is_end_stream()).then(|| UploadGuard::begin(&self.connection));
            CountedUpload { body, guard }
        };
        let answer = self.inner.call(request.map(upload));
        Box::pin(async move { Ok(answer.await?.map(|body| CountedBody { body, _guard: guard })) })
    }
}

/// The body of a response; dropping it ends the request.
pub(super) struct CountedBody {
    body: Body,
    _guard: RequestGuard,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    const ONE: &str = "192.0.2.1";
    const OTHER: &str = "192.0.2.2";

    fn connections(max: usize, max_per_peer: usize) -> (Clock, Arc<Connections>) {
        let clock = Clock::simulated(1, Timestamp::from_millis(0));
        (clock.clone(), Connections::new(clock, max, max_per_peer))
    }

    fn admit(connections: &Arc<Connections>, address: &str) -> Option<Place> {
        connections.admit(address.parse().unwrap())
    }

    fn is_cut(place: &Place) -> bool {
        place.connection.cut.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_is_idle_for_longest_makes_room() {
        let (clock, connections) = connections(3, 3);
        let (first, second) = (admit(&connections, ONE).unwrap(), admit(&connections, OTHER).unwrap());
        let request = first.connection.begin();
        clock.sleep(Duration::from_secs(1)).await;
        let third = admit(&connections, ONE).unwrap();
        let fourth = admit(&connections, ONE).unwrap();
        assert_eq!([&first, &second, &third, &fourth].map(is_cut), [false, true, false, false]);
        clock.sleep(Duration::from_secs(1)).await;
        drop(request);
        drop(second);
        let _fifth = admit(&connections, OTHER).unwrap();
        assert_eq!([&first, &third, &fourth].map(is_cut), [false, true, false], "it was busy until a moment ago");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_one_is_refused_when_all_are_at_work() {
        let (_, connections) = connections(2, 2);
        let (first, second) = (admit(&connections, ONE).unwrap(), admit(&connections, OTHER).unwrap());
        let _requests = (first.connection.begin(), second.connection.begin());
        assert!(admit(&connections, ONE).is_none() && !connections.make_room());
        drop(first);
        assert!(admit(&connections, ONE).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_its_share_takes_nothing_from_others() {
        let (_, connections) = connections(10, 2);
        let theirs = admit(&connections, OTHER).unwrap();
        let ours = [admit(&connections, ONE).unwrap(), admit(&connections, "::ffff:192.0.2.1").unwrap()];
        let _requests = ours.each_ref().map(|place| place.connection.begin());
        assert!(admit(&connections, ONE).is_none());
        assert!(!is_cut(&theirs));
        let network = [admit(&connections, "2001:db8::1").unwrap(), admit(&connections, "2001:db8::2").unwrap()];
        let _requests = network.each_ref().map(|place| place.connection.begin());
        assert!(admit(&connections, "2001:db8::3").is_none(), "a network is one peer");
        assert!(admit(&connections, "2001:db8:0:1::1").is_some());
        let own: Vec<_> = (0..4).map(|_| admit(&connections, "127.0.0.1").unwrap()).collect();
        assert!(!own.iter().any(is_cut), "this machine has no share of its own");
    }
}
