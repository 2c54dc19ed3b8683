//! Sockets of which it is not known yet whose they are.
//!
//! Anybody can open them. If there are too many, the oldest gives way to a new one, so that a flood of silent sockets keeps nobody out who sends
//! the first frame at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Maximum number of these sockets.
const MAX_NEW_SOCKETS: usize = 512;

/// The sockets that wait for their first frame.
#[derive(Clone, Default)]
pub(super) struct PendingSockets(Arc<Mutex<PendingQueue>>);

/// By the order of their arrival.
#[derive(Default)]
struct PendingQueue {
    next: u64,
    waiting: BTreeMap<u64, Arc<Notify>>,
}

/// The place of one such socket; dropping it gives it back.
pub(super) struct PendingPlace {
    sockets: PendingSockets,
    number: u64,
    eviction: Arc<Notify>,
}

impl PendingSockets {
    /// Gives a new socket a place: the oldest one's if there is no other.
    pub fn admit(&self) -> PendingPlace {
        let eviction = Arc::new(Notify::new());
        let mut queue = self.0.lock();
        if queue.waiting.len() >= MAX_NEW_SOCKETS
            && let Some((_, oldest)) = queue.waiting.pop_first()
        {
            oldest.notify_one();
        }
        let number = queue.next;
        queue.next += 1;
        queue.waiting.insert(number, eviction.clone());
        drop(queue);
        PendingPlace { sockets: self.clone(), number, eviction }
    }
}

impl PendingPlace {
    /// Completes when the place was given to another socket.
    pub async fn evicted(&self) {
        self.eviction.notified().await;
    }
}

impl Drop for PendingPlace {
    fn drop(&mut self) {
        self.sockets.0.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_silent_socket_gives_way() {
        let sockets = PendingSockets::default();
        let mut places: Vec<PendingPlace> = (0..MAX_NEW_SOCKETS).map(|_| sockets.admit()).collect();
        assert_eq!(places[0].evicted().now_or_never(), None);
        let new = sockets.admit();
        assert_eq!(places[0].evicted().now_or_never(), Some(()));
        assert_eq!((places[1].evicted().now_or_never(), new.evicted().now_or_never()), (None, None));
        drop(places.pop());
        let newer = sockets.admit();
        assert_eq!(places[1].evicted().now_or_never(), None, "a place was free");
        assert_eq!(newer.evicted().now_or_never(), None);
    }
}
