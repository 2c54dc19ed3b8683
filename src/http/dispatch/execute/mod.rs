//! `/v1/dispatch` and what continues it: resume, approve, continue.
//!
//! `request` reads the caller's words, `resolve` turns them into a run's beginnings, `answer` and `sse` follow it and answer as one JSON
//! or as a stream.

mod answer;
mod options;
mod outcome;
mod request;
mod resolve;
mod routes;
mod sse;
mod unattended;
mod upsert;

pub(super) use answer::{Follow, follow};
pub use outcome::{Fold, Outcome};
pub use request::DispatchRequest;
pub(super) use request::{ApproveRequest, ResumeRequest};
pub(super) use resolve::Lookup;
pub(super) use routes::{Desk, Posted, may_be_accepted, routes, streamed, target_id};
pub use sse::PublicEvent;
pub(super) use sse::{EventPage, nothing_more, or_events, stream_response};
pub(super) use unattended::start_unattended;
