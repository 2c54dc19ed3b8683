//! Job cases: their documents, checks and expressions, the flow that runs them, and the folder that keeps a run.
//!
//! A case compiles to one flow of `job-action` steps (`compile`); the engine fills in `${...}` with the same
//! `interpolation` and `state` that write the run's folder (`record`), which is a projection of the run's event log.
//!
//! Must not know: the engine, the command line, how a run is reached.

pub mod asserts;
pub mod batch;
pub mod case;
pub mod checks;
pub mod coerce;
pub mod compile;
pub mod cookies;
pub mod credentials;
pub mod dependencies;
pub mod folder;
pub mod http;
pub mod inputs;
pub mod interpolation;
pub mod json_path;
pub mod names;
pub mod paths;
pub mod payload;
pub mod poll;
pub mod record;
pub mod redaction;
pub mod state;
