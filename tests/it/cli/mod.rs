//! The command line, as the shell sees it: the real binary, its exit code, stdout and stderr.

mod backup;
mod config;
mod demo;
mod doctor;
mod documents;
mod health;
mod job;
mod keys;
mod kit;
mod mcp;
mod messages;
mod module;
mod outages;
mod ran;
mod run;
mod runs;
mod serve;
mod signals;
mod state;
mod traces;
mod usage;
