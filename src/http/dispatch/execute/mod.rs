//! `/v1/dispatch` and what continues it: resume, approve, continue.
//!
//! `request` reads the caller's words, `resolve` turns them into a run's beginnings, `answer` follows the run and
//! answers as a stream or as one JSON.

mod answer;
mod outcome;
mod request;
mod resolve;
mod routes;
mod sse;

pub use outcome::{Fold, Outcome};
pub use request::DispatchRequest;
pub(super) use routes::routes;
pub use sse::PublicEvent;
pub(super) use sse::{EventPage, nothing_more, stream_response};
