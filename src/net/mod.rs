//! The one door out.
//!
//! Everything that leaves this process goes through [`Egress`]: it judges every address before a
//! connection is made, follows redirects by hand and judges each, keeps credentials (headers and bodies) with the origin
//! they were given for, limits how many requests a party has at once, inflates gzip, and ends what is too slow or too large. [`sse`] reads event streams, [`retry_after`]
//! reads waits.
//!
//! A request is either [`Trust::Operator`] (a URL from the server's own configuration) or [`Trust::Judged`]
//! (a URL that a flow, a tool or a model had a word in). Only the first may reach private addresses without an
//! [`AllowRule`], and only as long as it stays at its origin.
//!
//! Must not know: models, runs, tenants, or what is being fetched.

mod body;
mod client;
mod error;
mod gzip;
mod hold;
mod judge;
mod names;
mod policy;
mod produce;
mod request;
mod retry_after;
mod share;
mod smtp;
pub mod sse;
mod target;

pub use body::{Body, Response};
pub use client::{Egress, install_tls};
pub use error::{Blocked, Error, ErrorKind, Phase};
pub use hold::{Hold, under};
pub use judge::{Class, judge};
pub use names::{Names, SystemNames};
pub use policy::{AllowRule, MAX_REQUESTS, Policy};
pub use produce::{Output, produce};
pub use request::{Deadlines, HeaderText, Request, Trust};
pub use retry_after::{limit_reached, retry_after};
pub use share::on_behalf_of;
pub use smtp::{Mail, Mailer, Undelivered};
pub use target::{judge_host, parse_url};
