//! Every integration test, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod http;
mod store;
mod support;
