//! A stream written as a plain async function.
//!
//! The work runs inside the stream itself: it moves only while the stream is polled, and dropping the stream
//! drops it at once, sockets and all. Nothing is spawned.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;

/// How far the work may run ahead of its reader, in items.
const AHEAD: usize = 16;

/// Where the work of [`produce`] puts its items.
#[derive(Debug)]
pub struct Output<T>(mpsc::Sender<T>);

impl<T> Output<T> {
    /// Hands over one item; waits when the reader is behind.
    pub async fn send(&self, item: T) {
        // The receiver lives in the same stream as this work, so it cannot be gone while this runs.
        let _ = self.0.send(item).await;
    }

    /// Hands over one item and waits until the reader asks for the next: it has dealt with this one by then.
    pub async fn send_and_wait(&self, item: T) {
        self.send(item).await;
        // The work is polled again only when the reader has taken everything and polls for more.
        let mut polled = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut polled, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// The items that `work` sends, until it returns.
pub fn produce<T, W, F>(work: W) -> impl Stream<Item = T> + Send + 'static
where
    T: Send + 'static,
    W: FnOnce(Output<T>) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, items) = mpsc::channel(AHEAD);
    Produce { items, work: Some(Box::pin(work(Output(sender)))) }
}

struct Produce<T> {
    items: mpsc::Receiver<T>,
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<T> Stream for Produce<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Poll::Ready(Some(item)) = self.items.poll_recv(cx) {
            return Poll::Ready(Some(item));
        }
        if let Some(work) = &mut self.work
            && work.as_mut().poll(cx).is_ready()
        {
            self.work = None;
        }
        self.items.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn every_item_arrives_in_order_even_when_the_work_runs_ahead() {
        let items: Vec<u32> = produce(|out| async move {
            for item in 0..100 {
                out.send(item).await;
            }
        })
        .collect()
        .await;
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn dropping_the_stream_drops_the_work() {
        let (alive, mut dropped) = mpsc::channel::<()>(1);
        let mut stream = Box::pin(produce(|out| async move {
            let _alive = alive;
            out.send(1).await;
            std::future::pending::<()>().await;
        }));
        assert_eq!(stream.next().await, Some(1));
        drop(stream);
        assert_eq!(dropped.recv().await, None);
    }
}
