//! Each recorded answer is read as its vendor's documents say.

use dispatch::provider::{Class, Finish, fold_events, read_recorded, read_refusal};
use serde_json::Value;

use super::{Recording, recordings};

/// What is read otherwise than expected, if anything.
pub fn difference(recording: &Recording) -> Option<String> {
    let expected = &recording.expected;
    if recording.status >= 400 {
        let shown = read_refusal(recording.status, &recording.bytes()).message.clone();
        let wanted = expected.error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or_default();
        let beginning: String = wanted.chars().take(60).collect();
        return (!shown.contains(&beginning)).then(|| format!("the reason is shown as {shown:?} instead of {wanted:?}"));
    }
    let read = read_recorded(recording.wire()?, &recording.bytes(), recording.stream)?;
    let finish = expected.finish.as_deref().unwrap_or_default();
    let events = match read {
        Ok(events) => events,
        Err(error) => {
            let broken = finish.starts_with("other:") && matches!(error.class, Class::Malformed | Class::Cut);
            let withheld = finish == "filter" && error.class == Class::ContentFilter;
            let refused = expected.error.is_some();
            return (!broken && !withheld && !refused).then(|| format!("{error:?}"));
        }
    };
    if expected.error.is_some() {
        return Some("an error was read as an answer".into());
    }
    let answer = fold_events(&events);
    let squeeze = |text: &str| text.split_whitespace().collect::<String>();
    if answer.text != expected.text && expected.media == 0 && answer.media == 0 {
        return Some(format!("text {:?} instead of {:?}", answer.text, expected.text));
    }
    if squeeze(&answer.reasoning) != squeeze(&expected.reasoning) {
        return Some(format!("reasoning {:?} instead of {:?}", answer.reasoning, expected.reasoning));
    }
    let calls: Vec<(String, Value)> = answer
        .tool_calls
        .iter()
        .map(|call| (call.name.clone(), serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::from(call.arguments.as_str()))))
        .collect();
    let wanted: Vec<(String, Value)> =
        expected.tool_calls.iter().map(|call| (call.name.clone().unwrap_or_default(), call.arguments.clone())).collect();
    if calls != wanted {
        return Some(format!("calls {calls:?} instead of {wanted:?}"));
    }
    let reason = match answer.finish {
        Finish::EndTurn => "stop",
        Finish::ToolCalls => "tool",
        Finish::Length => "length",
        Finish::ContentFilter | Finish::Refusal => "filter",
        Finish::Pause => "pause",
        Finish::Error => "error",
        Finish::Unknown => "",
    };
    if reason != finish && (finish != "stop" || reason != "tool") && !finish.starts_with("other") && !finish.is_empty() {
        return Some(format!("finish {reason:?} instead of {finish:?}"));
    }
    if let Some(usage) = &expected.usage {
        let get = |name: &str| usage.get(name).copied().unwrap_or(0);
        let spent = (get("input"), get("output"));
        if spent != (answer.usage.input, answer.usage.output) && spent != (0, 0) {
            return Some(format!("usage {:?} instead of {usage:?}", answer.usage));
        }
        if (get("cached"), get("cache_write")) != (answer.usage.cached_input, answer.usage.cache_write)
            && recording.vendor != "bedrock-mantle"
        {
            return Some(format!("cached {:?} instead of {usage:?}", answer.usage));
        }
    }
    let lost = expected.citations.iter().flatten().find(|url| url.starts_with("http") && !answer.citations.contains(url));
    lost.map(|url| format!("the citation {url} is lost"))
}

#[test]
fn every_recorded_answer_is_read_as_its_vendor_means_it() {
    let recordings = recordings();
    let wrong: Vec<String> =
        recordings.iter().filter_map(|recording| difference(recording).map(|what| format!("{}: {what}", recording.id))).collect();
    println!("{} of {} recordings are read right", recordings.len() - wrong.len(), recordings.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
