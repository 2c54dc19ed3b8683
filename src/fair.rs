//! A fair semaphore for scarce resources.
//!
//! Each party has a waiting line of its own, and a turn that becomes free goes to the next party in turn. Besides, there is one turn more than was asked
//! for, which only a party gets that holds none. So whoever comes while one other party has all it may have waits for nobody; beside several such
//! parties it waits for one turn of each, however many requests they have sent before.
//!
//! Must not know: who the parties are, and what a permit is for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Someone who acquires permits, as an opaque number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Party(u128);

impl Party {
    /// For work that belongs to no party in particular.
    pub const NOBODY: Self = Self(0);

    pub const fn new(number: u128) -> Self {
        Self(number)
    }

    /// The same one with a queue of its own for short work, which does not wait behind the long work.
    pub const fn for_short_work(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// The party's queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue of this party is full")]
pub struct QueueFull;

/// Turns that are kept for parties that hold none.
const RESERVED: usize = 1;

/// A semaphore whose permits go from party to party. Cheap to clone.
///
/// The last free permit is for a party that holds none.
#[derive(Clone)]
pub struct FairSemaphore(Arc<Inner>);

struct Inner {
    turns: usize,
    /// Maximum length of one party's queue.
    waiting: usize,
    state: Mutex<State>,
}

/// Whoever waits may not have a turn now.
#[derive(Default)]
struct State {
    free: usize,
    held: HashMap<Party, usize>,
    lines: HashMap<Party, VecDeque<oneshot::Sender<Permit>>>,
    /// The waiting parties, the next one first.
    order: VecDeque<Party>,
}

/// A permit; dropping it releases it.
pub struct Permit {
    party: Party,
    /// `None` if the permit was passed on already.
    inner: Option<Arc<Inner>>,
}

impl fmt::Debug for FairSemaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FairSemaphore({} turns)", self.0.turns)
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?})", self.party)
    }
}

impl FairSemaphore {
    /// So many turns at once for one party (at least one), one more for others, and so many requests of each party that may wait for one.
    pub fn new(turns: usize, waiting: usize) -> Self {
        let turns = turns.max(1);
        let state = State { free: turns.saturating_add(RESERVED), ..State::default() };
        Self(Arc::new(Inner { turns, waiting, state: Mutex::new(state) }))
    }

    /// Waits for a permit. A caller that drops the future loses its permit to the next one.
    pub async fn acquire(&self, party: Party) -> Result<Permit, QueueFull> {
        let turn = {
            let mut state = self.0.state.lock();
            // Nobody is passed by: of those that wait none may take this one.
            if state.may_take(party) {
                state.take(party);
                return Ok(Permit::new(&self.0, party));
            }
            state.wait(party, self.0.waiting)?
        };
        turn.await.map_err(|_| QueueFull)
    }
}

impl State {
    fn may_take(&self, party: Party) -> bool {
        self.free > RESERVED || self.free > 0 && !self.held.contains_key(&party)
    }

    fn take(&mut self, party: Party) {
        self.free -= 1;
        *self.held.entry(party).or_default() += 1;
    }

    fn give_back(&mut self, party: Party) {
        self.free += 1;
        if let Some(held) = self.held.get_mut(&party) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&party);
            }
        }
    }

    fn wait(&mut self, party: Party, most: usize) -> Result<oneshot::Receiver<Permit>, QueueFull> {
        let line = self.lines.entry(party).or_default();
        if line.len() >= most {
            // Requests whose futures were dropped need no place.
            line.retain(|turn| !turn.is_closed());
        }
        // `order` lists only parties with a queue that is not empty, so a party whose queue has just been emptied is missing too.
        let is_new = !self.order.contains(&party);
        if line.len() >= most {
            return Err(QueueFull);
        }
        let (turn, told) = oneshot::channel();
        line.push_back(turn);
        if is_new {
            self.order.push_back(party);
        }
        Ok(told)
    }

    /// Takes a free turn for the next party that may have one.
    fn next(&mut self) -> Option<(Party, oneshot::Sender<Permit>)> {
        while self.free > 0 {
            let place = self.order.iter().position(|party| self.may_take(*party))?;
            let party = self.order.remove(place)?;
            let line = self.lines.get_mut(&party)?;
            let next = std::iter::from_fn(|| line.pop_front()).find(|turn| !turn.is_closed());
            if line.is_empty() {
                self.lines.remove(&party);
            } else {
                self.order.push_back(party);
            }
            if let Some(turn) = next {
                self.take(party);
                return Some((party, turn));
            }
        }
        None
    }
}

impl Inner {
    fn release(self: &Arc<Self>, party: Party) {
        let mut state = self.state.lock();
        state.give_back(party);
        // One turn that ends may be for two: its party, which holds none now, may have the reserved one.
        while let Some((party, turn)) = state.next() {
            let Err(mut permit) = turn.send(Permit::new(self, party)) else { continue };
            // Nobody waits for it any more: it goes on to the next one, and not by the permit's own end, which would come back here.
            permit.inner = None;
            state.give_back(party);
        }
    }
}

impl Permit {
    fn new(inner: &Arc<Inner>, party: Party) -> Self {
        Self { party, inner: Some(inner.clone()) }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            inner.release(self.party);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A semaphore, the order in which parties got permits, and the permits that are held.
    struct Scene {
        semaphore: FairSemaphore,
        granted: Arc<Mutex<Vec<Party>>>,
        held: Arc<Mutex<VecDeque<Permit>>>,
    }

    impl Scene {
        fn new(turns: usize, waiting: usize) -> Self {
            Self { semaphore: FairSemaphore::new(turns, waiting), granted: Arc::default(), held: Arc::default() }
        }

        fn ask(&self, party: Party) -> tokio::task::JoinHandle<Result<(), QueueFull>> {
            let (semaphore, granted, held) = (self.semaphore.clone(), self.granted.clone(), self.held.clone());
            tokio::spawn(async move {
                let permit = semaphore.acquire(party).await?;
                granted.lock().push(party);
                held.lock().push_back(permit);
                Ok(())
            })
        }

        /// Releases the oldest permit and lets the next request have it.
        async fn end_one(&self) {
            let oldest = self.held.lock().pop_front();
            drop(oldest);
            settle().await;
        }

        fn holds(&self, party: Party) -> usize {
            self.held.lock().iter().filter(|permit| permit.party == party).count()
        }
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_new_request_waits_for_one_permit_of_each_waiting_party() {
        let late = Party::new(99);
        for turns in 1..=4 {
            for parties in 1..=5 {
                let scene = Scene::new(turns, 1_000);
                for party in 1..=parties {
                    (0..60).for_each(|_| drop(scene.ask(Party::new(party))));
                }
                settle().await;
                // Some of the queued requests have been served already.
                for _ in 0..7 {
                    scene.end_one().await;
                }
                let before = scene.granted.lock().len();
                drop(scene.ask(late));
                settle().await;
                while !scene.granted.lock().contains(&late) {
                    scene.end_one().await;
                }
                let waited = scene.granted.lock().len() - before - 1;
                let most = if parties == 1 { 0 } else { usize::try_from(parties).unwrap() };
                assert!(waited <= most, "{turns} turns, {parties} parties: it waited for {waited}");
            }
        }
    }

    #[tokio::test]
    async fn the_last_turn_is_for_who_holds_none() {
        let (many, few, third) = (Party::new(1), Party::new(2), Party::new(3));
        let scene = Scene::new(4, 1_000);
        (0..50).for_each(|_| drop(scene.ask(many)));
        settle().await;
        assert_eq!(scene.holds(many), 4, "nobody else wants one");
        (0..50).for_each(|_| drop(scene.ask(few)));
        settle().await;
        assert_eq!((scene.holds(many), scene.holds(few)), (4, 1), "who comes waits for nobody");
        for _ in 0..40 {
            scene.end_one().await;
            assert!(scene.held.lock().len() >= 4, "no turn but the last one is idle while somebody waits");
            assert!(scene.holds(many) >= 1 && scene.holds(few) >= 1);
        }
        drop(scene.ask(third));
        settle().await;
        if scene.holds(third) == 0 {
            scene.end_one().await;
            scene.end_one().await;
        }
        assert!(scene.granted.lock().contains(&third));
    }

    #[tokio::test]
    async fn a_turn_that_ends_may_be_for_two() {
        let (one, two) = (Party::new(1), Party::new(2));
        let scene = Scene::new(2, 10);
        for party in [one, two, two, one] {
            drop(scene.ask(party));
            settle().await;
        }
        assert_eq!((scene.holds(one), scene.holds(two)), (1, 1), "the last turn is for a third");
        scene.end_one().await;
        assert_eq!((scene.holds(one), scene.holds(two)), (1, 2), "the next one has its turn, and who holds none the last one");
    }

    #[tokio::test]
    async fn an_abandoned_request_takes_no_permit_and_no_place() {
        let scene = Scene::new(1, 2);
        let (one, two) = (Party::new(1), Party::new(2));
        scene.ask(one).await.unwrap().unwrap();
        scene.ask(two).await.unwrap().unwrap();
        let waiting: Vec<_> = (0..2).map(|_| scene.ask(one)).collect();
        settle().await;
        assert_eq!(scene.ask(one).await.unwrap(), Err(QueueFull));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        settle().await;
        let last = scene.ask(one);
        let other = scene.ask(two);
        settle().await;
        scene.end_one().await;
        assert!(last.is_finished() && !other.is_finished());
        scene.end_one().await;
        assert!(other.is_finished());
        scene.end_one().await;
        scene.end_one().await;
        let state = scene.semaphore.0.state.lock();
        assert_eq!((state.free, state.held.len(), state.lines.len(), state.order.len()), (2, 0, 0, 0));
    }
}
