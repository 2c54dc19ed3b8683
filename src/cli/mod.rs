//! The commands.

pub mod fake_provider;
