//! The Responses API: `POST /v1/responses`, and what was stored of it.
//!
//! A response is a chat completion in other words: `request` and `input` translate what is asked into a [`super::request::ChatRequest`], the
//! execution runs as any other, and `output` writes its answer as items, whole or as events. Nothing is kept beside the execution: its id names the
//! response, its input holds the conversation and, under [`stored::VARIABLE`], how the response was asked for. `stored` reads that back.
//!
//! Must not know: how a prompt is configured, the log's vocabulary.

mod create;
mod document;
mod events;
mod input;
mod items;
mod output;
mod places;
mod request;
mod routes;
mod stored;

use std::fmt;
use std::str::FromStr;

use aide::axum::ApiRouter;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::InPath;
use crate::id::{ParseIdError, RunId};

/// Every route of responses.
pub fn routes() -> ApiRouter<AppState> {
    create::routes().merge(routes::routes())
}

/// The id of a response: the id of its execution with the prefix of this API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseId(pub RunId);

const PREFIX: &str = "resp_";

impl fmt::Display for ResponseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0.suffix())
    }
}

impl FromStr for ResponseId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        RunId::from_suffix(text.strip_prefix(PREFIX).unwrap_or_default()).map(Self)
    }
}

impl Serialize for ResponseId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for ResponseId {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ResponseId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^resp_[0-7][0-9a-hjkmnp-tv-z]{25}$" })
    }
}

impl InPath for ResponseId {
    const PARAM: &'static str = "responseId";
    const NOUN: &'static str = "response";

    fn missing() -> Error {
        Error::missing(Self::NOUN).next("responses with `store: false`, and deleted ones, cannot be read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_has_the_id_of_its_execution() {
        let run: RunId = "exec_01h455vb4pex5vsknk084sn02q".parse().unwrap();
        assert_eq!(ResponseId(run).to_string(), "resp_01h455vb4pex5vsknk084sn02q");
        assert_eq!("resp_01h455vb4pex5vsknk084sn02q".parse(), Ok(ResponseId(run)));
        for text in ["exec_01h455vb4pex5vsknk084sn02q", "resp_", "resp_x", "01h455vb4pex5vsknk084sn02q"] {
            assert!(text.parse::<ResponseId>().is_err(), "{text}");
        }
    }
}
