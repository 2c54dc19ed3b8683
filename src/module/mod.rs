//! Modules: named, versioned collections of actions that jobs call, and the layers that they are loaded from.
//!
//! [`ActionRegistry`] loads the modules of this binary, of a workspace and of a user, in that order; the later one wins for
//! each action. An action is performed by the engine (`flow.*` and declarative HTTP actions) or here, by
//! [`ModuleAction::call_local`] (`memory.*` and JavaScript actions).
//!
//! Must not know: the engine, runs, the command line. All HTTP of an action goes through [`HttpGate`].

mod action;
mod builtin;
mod call;
mod http;
mod layers;
mod manifest;
pub mod memory;
pub mod package;
pub mod path;
mod registry;
mod script;
pub mod source;
pub mod version;

pub use action::{ActionHandler, MemoryVerb, ModuleAction, ModuleLayer, PayloadIssue, check_payload};
pub use call::{ActionFault, ActionOutcome, ActivityLog, HttpGate, LocalCall, ModuleRequest, ModuleResponse};
pub use http::HttpDefinition;
pub use layers::{find_workspace, load_module, workspace_modules};
pub use manifest::{MANIFEST_FILE, Manifest, ManifestFault, PackSection, is_name};
pub use registry::{ActionConflict, ActionRegistry, ConflictSide, JobKind, LoadedModule, ModuleJob, RegistryOptions};
pub use script::ScriptEntry;
