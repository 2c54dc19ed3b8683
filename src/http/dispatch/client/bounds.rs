//! Limits on what pages send. Callers of these routes are anonymous, so everything that they can store needs a limit.

use serde::Serialize;

use crate::error::Problems;

/// Maximum length of an id that a page chooses (of a message or an answer), in bytes.
pub(super) const MAX_ID_BYTES: usize = 200;
/// Maximum number and total size of a page's tools: they are stored in the session's row, which every call of the session reads.
pub(super) const MAX_CLIENT_TOOLS: usize = 100;
pub(super) const MAX_CLIENT_TOOLS_BYTES: usize = 128 * 1024;
/// Maximum length of the fingerprint of a set of tools, in bytes.
pub(super) const MAX_FINGERPRINT_BYTES: usize = 128;
/// Maximum length of the reason of a decision, in bytes.
pub(super) const MAX_REASON_BYTES: usize = 4 * 1024;
/// Maximum size of the metadata of feedback, in bytes.
pub(super) const MAX_FEEDBACK_METADATA_BYTES: usize = 8 * 1024;
/// Maximum number of feedback calls of one session.
pub(super) const MAX_FEEDBACK: u32 = 500;
/// Maximum size of a client token's `config`, in bytes.
pub(super) const MAX_LOOK_BYTES: usize = 32 * 1024;
/// Maximum length of one allowed origin, in bytes.
pub(super) const MAX_ORIGIN_BYTES: usize = 255;

/// Returns the length of a value as JSON.
pub(super) fn json_len<T: Serialize + ?Sized>(value: &T) -> usize {
    serde_json::to_vec(value).map_or(0, |text| text.len())
}

/// Reports a text that exceeds a limit.
pub(super) fn check_length(problems: &mut Problems, pointer: impl Into<String>, text: Option<&str>, limit: usize) {
    if let Some(length) = text.map(str::len).filter(|length| *length > limit) {
        problems.add(pointer, format!("expected at most {limit} bytes, got {length}; send a shorter text"));
    }
}
