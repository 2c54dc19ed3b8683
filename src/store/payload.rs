//! Large values are kept once, under the SHA-256 of their bytes.
//!
//! A column holds either the JSON text itself or `@` and a hash; `@` begins no JSON text, so the two cannot be
//! confused.

use sha2::{Digest, Sha256};

use super::Blob;
use crate::model::wait::hex;

/// Texts longer than this many bytes go to the blobs.
pub const INLINE_LIMIT: usize = 32 * 1024;

/// The content hash of a text, lowercase hex.
pub fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

impl Blob {
    pub fn new(body: String) -> Self {
        Self { hash: hash(&body), body }
    }
}

/// Replaces a large text by a reference and puts the text among the blobs.
pub(super) fn externalise(text: String, blobs: &mut Vec<Blob>) -> String {
    if text.len() <= INLINE_LIMIT {
        return text;
    }
    let blob = Blob::new(text);
    let reference = format!("@{}", blob.hash);
    blobs.push(blob);
    reference
}

/// The hash that a column's text refers to.
pub(super) fn reference(text: &str) -> Option<&str> {
    text.strip_prefix('@')
}

/// SQL for what a column's text stands for: itself, or the blob it refers to. A missing blob leaves the reference.
macro_rules! payload {
    ($column:literal) => {
        concat!(
            "case when ",
            $column,
            " like '@%' then coalesce((select b.body from blobs b where b.hash = substr(",
            $column,
            ", 2)), ",
            $column,
            ") else ",
            $column,
            " end"
        )
    };
}
pub(super) use payload;
