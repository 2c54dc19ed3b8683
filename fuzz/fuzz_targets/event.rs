//! A stored stretch of the event log, read and written for callers. See `entry`.
#![no_main]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::feed("event", bytes));
