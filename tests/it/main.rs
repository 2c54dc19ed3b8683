//! Every integration test, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod dispatch;
mod egress;
mod expr;
mod http;
mod providers;
mod scripted;
mod ssrf;
mod store;
mod support;
