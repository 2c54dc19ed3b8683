//! A fair semaphore for scarce resources.
//!
//! Each party has a waiting line of its own. A turn that becomes free goes to the next owner in turn, and of the owner's parties to the next one in turn:
//! so several lines do not make an owner's share larger. Besides, there is one turn more than was asked
//! for, which only a party gets that holds none. So whoever comes while one other party has all it may have waits for nobody; beside several such
//! parties it waits for one turn of each, however many requests they have sent before.
//!
//! Must not know: who the parties are, and what a permit is for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Someone who acquires permits: an owner, as an opaque number, and one of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Party {
    owner: u128,
    line: u8,
}

const SHORT_WORK: u8 = 1;
const VISITORS: u8 = 2;

impl Party {
    /// For work that belongs to no party in particular.
    pub const NOBODY: Self = Self::new(0);

    pub const fn new(owner: u128) -> Self {
        Self { owner, line: 0 }
    }

    /// The same owner's line for short work, which does not wait behind the long work.
    pub const fn for_short_work(self) -> Self {
        Self { line: self.line | SHORT_WORK, ..self }
    }

    /// The same owner's line for the work of its visitors, behind which its own work does not wait.
    pub const fn for_visitors(self) -> Self {
        Self { line: self.line | VISITORS, ..self }
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
    /// The owners of the waiting parties, the next one first, and the waiting parties of each likewise.
    order: VecDeque<(u128, VecDeque<Party>)>,
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

/// A limit for each owner: so many permits at once for one of its lines, and one more for the others. Cheap to clone.
#[derive(Clone)]
pub struct OwnerLimits(Arc<Limits>);

struct Limits {
    each: usize,
    /// The semaphores of owners that hold permits or wait for some.
    owners: Mutex<HashMap<u128, Weak<Inner>>>,
}

impl fmt::Debug for OwnerLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerLimits({} permits each)", self.0.each)
    }
}

impl OwnerLimits {
    pub fn new(each: usize) -> Self {
        Self(Arc::new(Limits { each, owners: Mutex::default() }))
    }

    /// Waits for one of the owner's permits.
    pub async fn acquire(&self, party: Party) -> Result<Permit, QueueFull> {
        self.semaphore(party.owner).acquire(party).await
    }

    fn semaphore(&self, owner: u128) -> FairSemaphore {
        let mut owners = self.0.owners.lock();
        if let Some(known) = owners.get(&owner).and_then(Weak::upgrade) {
            return FairSemaphore(known);
        }
        if owners.len() == owners.capacity() {
            owners.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = FairSemaphore::new(self.0.each, usize::MAX);
        owners.insert(owner, Arc::downgrade(&semaphore.0));
        semaphore
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
        let is_new = !self.order.iter().any(|(_, parties)| parties.contains(&party));
        if line.len() >= most {
            return Err(QueueFull);
        }
        let (turn, told) = oneshot::channel();
        line.push_back(turn);
        if is_new {
            match self.order.iter_mut().find(|(owner, _)| *owner == party.owner) {
                Some((_, parties)) => parties.push_back(party),
                None => self.order.push_back((party.owner, VecDeque::from([party]))),
            }
        }
        Ok(told)
    }

    /// Takes a free turn for the next party that may have one.
    fn next(&mut self) -> Option<(Party, oneshot::Sender<Permit>)> {
        while self.free > 0 {
            let first_of = |parties: &VecDeque<Party>| parties.iter().copied().find(|party| self.may_take(*party));
            let (place, party) = self.order.iter().enumerate().find_map(|(place, (_, parties))| Some((place, first_of(parties)?)))?;
            let (owner, mut parties) = self.order.remove(place)?;
            parties.retain(|other| *other != party);
            let mut line = self.lines.remove(&party).unwrap_or_default();
            let next = std::iter::from_fn(|| line.pop_front()).find(|turn| !turn.is_closed());
            if !line.is_empty() {
                self.lines.insert(party, line);
                parties.push_back(party);
            }
            match (parties.is_empty(), &next) {
                (true, _) => {}
                (false, Some(_)) => self.order.push_back((owner, parties)),
                // It had no turn.
                (false, None) => self.order.insert(place, (owner, parties)),
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
    async fn own_work_does_not_wait_behind_visitors() {
        let (own, visitors) = (Party::new(1), Party::new(1).for_visitors());
        for turns in 1..=4 {
            let scene = Scene::new(turns, 1_000);
            (0..100).for_each(|_| drop(scene.ask(visitors)));
            settle().await;
            scene.ask(own).await.unwrap().unwrap();
            // One more waits for one turn of each line.
            drop(scene.ask(own));
            settle().await;
            let before = scene.granted.lock().len();
            while scene.granted.lock().iter().filter(|party| **party == own).count() < 2 {
                scene.end_one().await;
            }
            let waited = scene.granted.lock().len() - before - 1;
            assert!(waited <= 2, "{turns} turns: it waited for {waited}");
        }
    }

    #[tokio::test]
    async fn several_lines_have_no_more_turns_than_one() {
        let (one, two) = (Party::new(1), Party::new(2));
        let scene = Scene::new(8, 1_000);
        for party in [one, one.for_visitors(), one.for_short_work(), two] {
            (0..200).for_each(|_| drop(scene.ask(party)));
        }
        settle().await;
        let before = scene.granted.lock().len();
        for _ in 0..100 {
            scene.end_one().await;
        }
        let granted: Vec<u128> = scene.granted.lock().iter().skip(before).map(|party| party.owner).collect();
        let (ones, twos) = (granted.iter().filter(|owner| **owner == 1).count(), granted.iter().filter(|owner| **owner == 2).count());
        assert!(ones.abs_diff(twos) <= 4, "{ones} turns of one owner, {twos} of the other");
    }

    #[tokio::test]
    async fn owners_have_limits_of_their_own() {
        let (limits, one) = (OwnerLimits::new(2), Party::new(1));
        let held = [limits.acquire(one).await.unwrap(), limits.acquire(one).await.unwrap()];
        let waiting = tokio::spawn({
            let limits = limits.clone();
            async move { limits.acquire(one).await.is_ok() }
        });
        settle().await;
        assert!(!waiting.is_finished());
        drop(limits.acquire(one.for_visitors()).await.unwrap());
        for owner in 2..100 {
            drop(limits.acquire(Party::new(owner)).await.unwrap());
        }
        drop(held);
        assert!(waiting.await.unwrap());
        assert!(limits.0.owners.lock().len() < 50, "owners without permits are forgotten");
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
