//! The workers: who advances which run, under a lease.
//!
//! A run that starts here is advanced here. Everything else is claimed when it is due: what was resumed, what a
//! timer woke, what an owner that went away left behind. Leases are renewed in bulk; a node that cannot renew
//! stops what it holds before anyone else can take it up.
//!
//! Must not know: HTTP, what a step does. Nobody else drives a run.

mod keeper;
mod pulse;
mod workers;

pub use workers::{Options, Workers};
