//! Every integration test, in one binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[macro_use]
mod dispatch;

mod admin;
mod budgets;
mod cli;
mod docs;
mod docs_api;
mod egress;
mod examples;
mod expr;
mod fuzz;
mod http;
mod layers;
mod modules;
mod openai;
mod providers;
mod recordings;
mod scripted;
mod sim;
mod ssrf;
mod store;
mod support;
mod workflows;
