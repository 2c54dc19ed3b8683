//! How much of what pages send is kept. Nobody who calls a page's routes has to be known, so everything that they can make grow has a bound.

use serde::Serialize;

use crate::error::Problems;

/// Bytes of an id that a page gives: of a message, of an answer.
pub(super) const MAX_ID_BYTES: usize = 200;
/// Tools of one page, and their bytes together: a session's row holds them, and every call of the session reads it.
pub(super) const MAX_CLIENT_TOOLS: usize = 100;
pub(super) const MAX_CLIENT_TOOLS_BYTES: usize = 128 * 1024;
/// Bytes of the name of a set of tools.
pub(super) const MAX_FINGERPRINT_BYTES: usize = 128;
/// Bytes of the reason for a decision.
pub(super) const MAX_REASON_BYTES: usize = 4 * 1024;
/// Bytes of what a page adds to feedback.
pub(super) const MAX_FEEDBACK_METADATA_BYTES: usize = 8 * 1024;
/// Feedback of one session.
pub(super) const MAX_FEEDBACK: u32 = 500;
/// Bytes of the look that a client token gives its pages.
pub(super) const MAX_LOOK_BYTES: usize = 32 * 1024;
/// Bytes of one allowed origin.
pub(super) const MAX_ORIGIN_BYTES: usize = 255;

/// The length of a value as it is kept.
pub(super) fn json_len<T: Serialize + ?Sized>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(0, |text| text.len())
}

/// Notes a text that is longer than it may be.
pub(super) fn check_length(problems: &mut Problems, pointer: impl Into<String>, text: Option<&str>, limit: usize) {
    if let Some(length) = text.map(str::len).filter(|length| *length > limit) {
        problems.add(pointer, format!("{length} bytes are more than {limit}; send a shorter text"));
    }
}
