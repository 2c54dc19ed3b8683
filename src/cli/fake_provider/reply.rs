//! From rendered steps to a response whose body follows them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode, header};
use futures_util::stream;

use super::render::{Rendered, Step};
use super::stats::Ticket;
use crate::clock::Clock;

pub(super) async fn reply(rendered: Arc<Rendered>, mut ticket: Ticket, clock: &Clock) -> Response<Body> {
    if rendered.wait == Duration::MAX {
        std::future::pending::<()>().await;
    }
    if !rendered.wait.is_zero() {
        clock.sleep(rendered.wait).await;
    }
    let mut response = Response::builder()
        .status(StatusCode::from_u16(rendered.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .header(header::CONTENT_TYPE, rendered.content_type.as_ref())
        .header("x-request-id", "req_fake");
    if let Some(seconds) = rendered.retry_after {
        response = response.header(header::RETRY_AFTER, seconds);
    }
    let body = match rendered.steps.as_slice() {
        [] => {
            ticket.finish();
            Body::empty()
        }
        [Step::Write(whole)] => {
            ticket.finish();
            Body::from(whole.clone())
        }
        _ => follow(rendered, ticket, clock.clone()),
    };
    response.body(body).unwrap_or_else(|_| Response::new(Body::empty()))
}

/// The steps, one after the other. Between two writes the stream rests for a moment, so that each is sent alone.
fn follow(rendered: Arc<Rendered>, ticket: Ticket, clock: Clock) -> Body {
    let parts = stream::unfold((rendered, ticket, clock, 0usize), |(rendered, mut ticket, clock, mut at)| async move {
        if at > 0 {
            tokio::task::yield_now().await;
        }
        loop {
            let step = rendered.steps.get(at).cloned();
            at += 1;
            let part = match step {
                None => {
                    ticket.finish();
                    return None;
                }
                Some(Step::Wait(wait)) => {
                    clock.sleep(wait).await;
                    continue;
                }
                Some(Step::Hang) => std::future::pending().await,
                Some(Step::Write(bytes)) => {
                    // A caller that hangs up after the last word has not left early.
                    if at == rendered.steps.len() {
                        ticket.finish();
                    }
                    Ok::<Bytes, io::Error>(bytes)
                }
                Some(Step::Abort) => {
                    ticket.finish();
                    Err(io::ErrorKind::ConnectionAborted.into())
                }
            };
            return Some((part, (rendered, ticket, clock, at)));
        }
    });
    Body::from_stream(parts)
}
