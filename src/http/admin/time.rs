//! Times as this surface writes them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, Serializer};

use crate::clock::Timestamp;

/// A time as Go writes it (RFC 3339): fractions of a second only as far as they are not zero, so that what a caller sent in whole seconds comes
/// back as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) struct AdminTime(pub Timestamp);

impl From<Timestamp> for AdminTime {
    fn from(time: Timestamp) -> Self {
        Self(time)
    }
}

impl Serialize for AdminTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.to_string();
        // A timestamp is printed with milliseconds: only zeros behind its point are removed.
        let seconds = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
        let shortest = if text.ends_with(".000Z") { text.trim_end_matches(".000Z") } else { seconds };
        serializer.collect_str(&format_args!("{shortest}Z"))
    }
}

impl JsonSchema for AdminTime {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AdminTime".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Timestamp::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_written_as_far_as_they_are_not_zero() {
        for text in ["2030-01-15T10:00:00Z", "2030-01-15T10:00:00.5Z", "2030-01-15T10:00:10.125Z"] {
            let time: Timestamp = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_value(AdminTime(time)).ok(), Some(text.into()));
        }
    }
}
