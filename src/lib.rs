//! Dispatch: one engine that runs flows durably and streams them; every surface is an adapter over it.
//!
//! See ARCHITECTURE.md for the map. Layers, lowest first: ground (`id clock error fair number offload secret process`), matter
//! (`model expr net html`), ports (`store feed provider tool asset module`), `engine`, work (`queue auth`), `http`, and the roof
//! (`app config cli`). A test keeps imports pointing down.

pub mod app;
pub mod asset;
pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
pub mod expr;
pub mod failpoint;
pub mod fair;
pub mod feed;
pub mod html;
pub mod http;
pub mod id;
pub mod job;
pub mod model;
pub mod module;
pub mod net;
pub mod number;
pub mod offload;
pub mod process;
pub mod provider;
pub mod queue;
pub mod secret;
pub mod store;
pub mod tool;
