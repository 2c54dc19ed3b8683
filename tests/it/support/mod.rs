//! What several areas of tests share.

pub mod app;
pub mod call;
