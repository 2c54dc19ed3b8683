//! The command line, as the shell sees it: the real binary, its exit code, stdout and stderr.

mod demo;
mod documents;
mod keys;
mod ran;
mod run;
mod usage;
