//! The cases, by noun. Each takes a fresh database.

pub mod world;

pub mod accounts;
pub mod bell;
pub mod cancels;
pub mod children;
pub mod claims;
pub mod commits;
pub mod creations;
pub mod documents;
pub mod flows;
pub mod jobs;
pub mod lists;
pub mod payloads;
pub mod quotas;
pub mod races;
pub mod receipts;
pub mod records;
pub mod retention;
pub mod secrets;
pub mod signals;
pub mod text;
pub mod usage;
pub mod vault;
pub mod vectors;
pub mod waits;

/// What every case takes.
pub type Site = std::sync::Arc<super::site::Site>;
