//! The front door and the plain nouns of the dispatch surface, over real sockets.

mod bodies;
mod document;
mod door;
mod flows;
mod idempotency;
mod keys;
mod limits;
mod matrix;
mod records;
mod server;
