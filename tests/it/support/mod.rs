//! What several areas of tests share.

pub mod app;
pub mod call;
pub mod dns;
pub mod mcp;
pub mod redact;
pub mod sink;
pub mod smtp;
pub mod transcript;
pub mod world;
