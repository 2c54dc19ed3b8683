//! A template: parsed, and rendered when it parses. See `entry`.
#![no_main]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::feed("template", bytes));
