//! A condition: parsed, and judged when it needs no script. See `entry`.
#![no_main]

#[path = "../entry.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entry::feed("condition", bytes));
