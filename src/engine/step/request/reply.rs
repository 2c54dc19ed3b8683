//! Interprets a service's reply: its body, and the directives in its headers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::engine::memory::{EndOrder, Orders};
use crate::error::Result;
use crate::model::span;
use crate::tool::http::HttpAnswer;

/// How long a signal is waited for that a service asks for without saying.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// The longest wait before another attempt that a service may ask for.
pub(super) const LATEST: Duration = Duration::from_secs(24 * 3_600);

/// What the headers of a reply say of the run (`Dispatched-*`).
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Directives {
    pub retry: Option<Duration>,
    pub fail: Option<String>,
    pub skip: Vec<String>,
    pub wait: Option<(String, Duration)>,
    pub complete: bool,
    pub cancel: bool,
    pub logs: Vec<String>,
    /// Headers that mean nothing here.
    pub unknown: Vec<String>,
}

impl Directives {
    /// Reads all lines of all headers. Steps to skip, log texts and failure reasons are combined; the longest retry delay and the
    /// first wait count.
    pub fn read(answer: &HttpAnswer) -> Self {
        let mut found = Self::default();
        for (name, value) in &answer.headers {
            let Some(directive) = name.strip_prefix("dispatched-") else { continue };
            for line in value.as_str().unwrap_or_default().split('\n') {
                if !found.add(directive, line.trim()) && found.unknown.last() != Some(name) {
                    found.unknown.push(name.clone());
                }
            }
        }
        found
    }

    /// Returns whether the line is a known directive that counts.
    fn add(&mut self, directive: &str, text: &str) -> bool {
        match directive {
            "retry" => {
                // A proxy may have joined several lines.
                let seconds: Result<Vec<u32>, _> = text.split(',').map(|seconds| seconds.trim().parse()).collect();
                let Ok(Some(longest)) = seconds.map(|seconds| seconds.into_iter().max()) else { return false };
                self.retry = self.retry.max(Some(Duration::from_secs(u64::from(longest)).min(LATEST)));
            }
            "fail" => match &mut self.fail {
                Some(reasons) => reasons.extend(["; ", text]),
                None => self.fail = Some(text.to_owned()),
            },
            "skip" => self.skip.extend(text.split(',').map(str::trim).filter(|step| !step.is_empty()).map(str::to_owned)),
            "wait" => match wait(text) {
                Some(wait) if self.wait.is_none() => self.wait = Some(wait),
                _ => return false,
            },
            "complete" => self.complete = true,
            "cancel" => self.cancel = true,
            "log" => self.logs.push(text.to_owned()),
            _ => return false,
        }
        true
    }

    /// The stronger word counts: fail, cancel, complete, retry, wait, skip.
    pub fn orders(&self) -> Orders {
        let end = match (self.cancel, self.complete) {
            (true, _) => Some(EndOrder::Cancel),
            (false, true) => Some(EndOrder::Complete),
            (false, false) => None,
        };
        Orders { skip: self.skip.clone(), end }
    }

    /// As events tell it; `None` when there is nothing to tell.
    pub fn told(&self) -> Option<Value> {
        let mut told = Map::new();
        let mut tell = |name: &str, value: Value| told.insert(name.to_owned(), value);
        if let Some(wait) = self.retry {
            tell("retry", json!(wait.as_secs()));
        }
        if let Some(text) = &self.fail {
            tell("fail", json!(text));
        }
        if !self.skip.is_empty() {
            tell("skip", json!(self.skip));
        }
        if let Some((signal, lasts)) = &self.wait {
            tell("wait", json!({ "signal": signal, "timeout_ms": u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX) }));
        }
        if self.complete {
            tell("complete", json!(true));
        }
        if self.cancel {
            tell("cancel", json!(true));
        }
        if !self.logs.is_empty() {
            tell("log", json!(self.logs.join("\n")));
        }
        if !self.unknown.is_empty() {
            tell("ignored", json!(self.unknown));
        }
        (!told.is_empty()).then_some(Value::Object(told))
    }
}

/// `<signal>; timeout=<duration>`.
fn wait(text: &str) -> Option<(String, Duration)> {
    let (name, rest) = text.split_once(';').unwrap_or((text, ""));
    let lasts = match rest.trim().strip_prefix("timeout=") {
        Some(length) => span::parse(length.trim_matches('"'))?.min(LONGEST),
        None if rest.trim().is_empty() => LONGEST,
        None => return None,
    };
    (crate::engine::is_signal_name(name.trim()) && !name.starts_with('$')).then(|| (name.trim().to_owned(), lasts))
}

/// A good reply, and how many attempts it took.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub answer: HttpAnswer,
    /// The body of the answer as it was read.
    pub body: Value,
    pub attempts: u32,
    pub directives: Directives,
}

impl Reply {
    /// As later steps see it.
    pub fn value(&self) -> Value {
        json!({ "status": self.answer.status, "headers": self.answer.headers, "body": self.body })
    }
}

/// The body of a successful reply: JSON, null if there is none, text, or base64 of a body that is not text. Error `reply_not_json`: the content
/// type says JSON and the body is not; later steps would read only nulls from it.
pub(super) fn body(answer: &HttpAnswer) -> Result<Value> {
    if answer.is_empty() { Ok(Value::Null) } else { answer.read() }
}

/// The same, with the text in the place of invalid JSON: for replies whose body is not used.
pub(super) fn lenient_body(answer: &HttpAnswer) -> Value {
    if answer.is_empty() { Value::Null } else { answer.value() }
}

/// What came of an attempt, as the journal keeps it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Made {
    /// No reply: why.
    Broke {
        broke: String,
        message: String,
        retryable: bool,
    },
    Replied(HttpAnswer),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: Value) -> Directives {
        let answer = json!({ "status": 200, "headers": headers, "mediaType": "text/plain", "body": "" });
        Directives::read(&serde_json::from_value(answer).unwrap())
    }

    #[test]
    fn directives_are_read_from_headers() {
        let found = read(json!({
            "dispatched-retry": "5", "dispatched-skip": "a, b,", "dispatched-wait": "payment-done; timeout=2h",
            "dispatched-log": "said", "dispatched-what": "x", "content-type": "text/plain",
        }));
        assert_eq!(found.retry, Some(Duration::from_secs(5)));
        assert_eq!(found.skip, ["a", "b"]);
        assert_eq!(found.wait, Some(("payment-done".into(), Duration::from_secs(7_200))));
        assert_eq!(found.unknown, ["dispatched-what"]);
        assert!(read(json!({ "x": "y" })).told().is_none());
        for wrong in ["", "a; timeout=soon", "a; x=1"] {
            assert_eq!(read(json!({ "dispatched-wait": wrong })).unknown, ["dispatched-wait"], "{wrong}");
        }
        let both = read(json!({ "dispatched-cancel": "", "dispatched-complete": "" })).orders();
        assert_eq!(both.end, Some(EndOrder::Cancel));
    }

    #[test]
    fn every_line_of_a_directive_counts() {
        let found = read(json!({
            "dispatched-retry": "5\n60, 7\n10", "dispatched-skip": "a, b\nc", "dispatched-wait": "one\ntwo", "dispatched-log": "one, two\nthree",
            "dispatched-fail": "no\nnever", "dispatched-what": "x\ny",
        }));
        assert_eq!(found.retry, Some(Duration::from_secs(60)));
        assert_eq!(found.skip, ["a", "b", "c"]);
        assert_eq!(found.wait, Some(("one".into(), LONGEST)));
        assert_eq!((found.logs, found.fail), (vec!["one, two".to_owned(), "three".to_owned()], Some("no; never".into())));
        assert_eq!(found.unknown, ["dispatched-wait", "dispatched-what"], "what does not count is named");
    }
}
