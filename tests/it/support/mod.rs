//! What several areas of tests share.

pub mod app;
pub mod call;
pub mod dns;
pub mod redact;
pub mod sink;
pub mod transcript;
pub mod world;
