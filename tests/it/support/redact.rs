//! Transcripts as texts that are the same every time: ids by their order, no times.

use std::collections::HashMap;

use serde_json::Value;

use super::transcript::Transcript;

/// A transcript, one line an event: its type, then its fields without the envelope.
pub fn show(transcript: &Transcript) -> String {
    let mut names = Names::default();
    let lines = transcript.frames.iter().map(|frame| {
        let mut data = frame.data.clone();
        if let Some(map) = data.as_object_mut() {
            map.retain(|key, _| !["type", "executionId", "seq"].contains(&key.as_str()));
        }
        names.settle(&mut data);
        format!("{} {data}\n", frame.kind)
    });
    lines.collect()
}

/// A JSON answer without its events, in the same way.
pub fn show_json(answer: &Value) -> String {
    let mut answer = answer.clone();
    if let Some(map) = answer.as_object_mut() {
        map.shift_remove("events");
        map.shift_remove("totalEvents");
    }
    Names::default().settle(&mut answer);
    serde_json::to_string_pretty(&answer).unwrap()
}

/// Words for what differs from run to run.
#[derive(Default)]
struct Names(HashMap<String, String>);

const TIMES: [&str; 6] = ["durationMs", "executionTime", "timeout", "waitMs", "afterSeq", "digest"];

impl Names {
    fn settle(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    if TIMES.contains(&key.as_str()) && !value.is_null() {
                        *value = format!("[{key}]").into();
                    } else {
                        self.settle(value);
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.settle(item)),
            Value::String(text) => *text = self.word(text),
            _ => {}
        }
    }

    fn word(&mut self, text: &str) -> String {
        let is_time = text.len() == 24 && text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T');
        if is_time {
            return "[time]".into();
        }
        let Some((start, end)) = text.rsplit_once('_') else { return text.into() };
        let is_id = matches!(end.len(), 24 | 26) && end.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit());
        if !is_id {
            return text.into();
        }
        let next = self.0.len() + 1;
        self.0.entry(text.to_owned()).or_insert_with(|| format!("[{start} {next}]")).clone()
    }
}
