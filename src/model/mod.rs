//! The nouns: flow, step, run, event, wait, record, and the transitions that are legal.
//!
//! Pure data and pure rules, shared by store, engine and surfaces. Must not know: storage, sockets,
//! templates, wire formats of providers, or the words any surface uses for these nouns.

pub mod cadence;
pub mod compact;
pub mod event;
pub mod filter;
pub mod flow;
pub mod job;
pub mod journal;
pub mod object;
pub mod origin;
pub mod quota;
pub mod record;
pub mod retention;
pub mod run;
pub mod span;
pub mod target;
pub mod usage;
pub mod vector;
pub mod wait;

pub use cadence::Cadence;
pub use event::{Event, EventRecord};
pub use flow::{Flow, Step};
pub use job::{Job, JobState};
pub use journal::{JournalEntry, Outcome};
pub use origin::Origin;
pub use quota::UsageLimits;
pub use record::Record;
pub use retention::{RetentionKind, RetentionPolicy};
pub use run::{Caller, Epoch, Requester, Run, RunInput, RunState, StepState, Who};
pub use target::{Target, TargetKind};
pub use usage::ModelUsage;
pub use wait::{Resolution, Wait, WaitKind};
