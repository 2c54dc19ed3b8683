//! Recordings changed at random: members dropped, nulled and doubled, chunks dropped, doubled, swapped, bytes cut off. Nothing panics, a cut answer is
//! never a success, and no call is doubled. `DISPATCH_MUTATIONS` says how many; `scripts/proof mutations` runs a million.

use dispatch::clock::Clock;
use dispatch::provider::{RecordedAnswer, fold_events, read_recorded};
use serde_json::Value;

use super::recordings;

/// An answer to change.
struct Seed {
    name: String,
    wire: &'static str,
    streamed: bool,
    bytes: Vec<u8>,
}

/// A small generator of numbers (xorshift64*), so that a failure is found again by its seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { usize::try_from(self.next() % limit as u64).unwrap() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    DropChunk,
    DoubleChunk,
    SwapChunks,
    NullMember,
    DropMember,
    DoubleMember,
    /// The connection breaks at a byte.
    Cut,
}

const CHANGES: [Change; 7] =
    [Change::DropChunk, Change::DoubleChunk, Change::SwapChunks, Change::NullMember, Change::DropMember, Change::DoubleMember, Change::Cut];

/// Small answers of every format in a project without recordings.
fn own_seeds() -> Vec<Seed> {
    let file = include_str!("../../vectors/answers.json");
    let answers: Vec<Value> = serde_json::from_str(file).unwrap();
    let wires = ["openai", "anthropic", "gemini", "responses", "cohere"];
    answers
        .iter()
        .map(|answer| {
            let wire = answer["wire"].as_str().unwrap();
            Seed {
                name: answer["name"].as_str().unwrap().to_owned(),
                wire: wires.iter().find(|known| **known == wire).unwrap(),
                streamed: answer["streamed"].as_bool().unwrap(),
                bytes: answer["body"].as_str().unwrap().as_bytes().to_vec(),
            }
        })
        .collect()
}

fn seeds() -> Vec<Seed> {
    const LARGEST: usize = 60_000;
    let mut seeds = own_seeds();
    for recording in recordings() {
        let (Some(wire), bytes) = (recording.wire(), recording.bytes()) else { continue };
        // Frames of AWS carry checksums: any change is a broken frame.
        if recording.status < 400 && recording.expected.error.is_none() && bytes.len() <= LARGEST && recording.encoding.is_none() {
            seeds.push(Seed { name: recording.id, wire, streamed: recording.stream, bytes });
        }
    }
    seeds
}

/// The chunks of a stream, each with its blank line; a whole answer is one chunk.
fn chunks(seed: &Seed) -> Vec<Vec<u8>> {
    if !seed.streamed {
        return vec![seed.bytes.clone()];
    }
    let text = String::from_utf8_lossy(&seed.bytes).replace("\r\n", "\n");
    text.split_inclusive("\n\n").map(|chunk| chunk.as_bytes().to_vec()).collect()
}

/// Every place of a value, as a path of steps.
fn places(value: &Value, here: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => return,
    };
    for (step, child) in children {
        here.push(step);
        out.push(here.clone());
        places(child, here, out);
        here.pop();
    }
}

fn parent<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(members) => members.get_mut(step),
        Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?),
        _ => None,
    })
}

fn change_member(chunk: &[u8], change: Change, draw: &mut Draw) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(chunk).ok()?;
    let start = text.find('{')?;
    let end = text.rfind('}')? + 1;
    let mut value: Value = serde_json::from_str(text.get(start..end)?).ok()?;
    let mut all = Vec::new();
    places(&value, &mut Vec::new(), &mut all);
    let path = all.get(draw.below(all.len()))?;
    let (last, above) = path.split_last()?;
    let mut double = None;
    match parent(&mut value, above)? {
        Value::Object(members) => match change {
            Change::NullMember => {
                members.insert(last.clone(), Value::Null);
            }
            Change::DropMember => {
                members.remove(last);
            }
            _ => double = Some((last.clone(), members.get(last)?.clone())),
        },
        Value::Array(items) => {
            let at: usize = last.parse().ok()?;
            match change {
                Change::NullMember => *items.get_mut(at)? = Value::Null,
                Change::DropMember => {
                    items.remove(at);
                }
                // A doubled item is another item; that is no slip of a relay.
                _ => return None,
            }
        }
        _ => return None,
    }
    let mut json = value.to_string();
    if let Some((name, member)) = double {
        // The same member twice in one object.
        let written = format!("{}:{member}", Value::from(name));
        let at = json.find(&written)?;
        json.insert_str(at, &format!("{written},"));
    }
    Some([text.get(..start)?, &json, text.get(end..)?].concat().into_bytes())
}

fn mutate(seed: &Seed, change: Change, draw: &mut Draw) -> Option<Vec<u8>> {
    let mut chunks = chunks(seed);
    let at = draw.below(chunks.len());
    match change {
        Change::Cut => {
            let bytes = chunks.concat();
            return Some(bytes.get(..draw.below(bytes.len()))?.to_vec());
        }
        Change::DropChunk | Change::DoubleChunk | Change::SwapChunks if !seed.streamed => return None,
        Change::DropChunk => {
            chunks.remove(at);
        }
        Change::DoubleChunk => chunks.insert(at, chunks.get(at)?.clone()),
        Change::SwapChunks => {
            let other = (at + 1).min(chunks.len() - 1);
            chunks.swap(at, other);
        }
        Change::NullMember | Change::DropMember | Change::DoubleMember => {
            let changed = change_member(chunks.get(at)?, change, draw)?;
            *chunks.get_mut(at)? = changed;
        }
    }
    Some(chunks.concat())
}

/// Calls that would be made.
fn made(answer: &RecordedAnswer) -> usize {
    let is_object = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
    answer.tool_calls.iter().filter(|call| !call.cut && !call.name.is_empty() && is_object(&call.arguments)).count()
}

fn judge(seed: &Seed, good: &RecordedAnswer, change: Change, bytes: &[u8]) -> Result<bool, String> {
    let Some(Ok(events)) = read_recorded(seed.wire, bytes, seed.streamed) else { return Ok(false) };
    let answer = fold_events(&events);
    if change == Change::Cut
        && (answer.text != good.text || answer.tool_calls.len() != good.tool_calls.len() || made(&answer) != made(good))
    {
        return Err(format!("a cut answer passes as whole: {:?}", answer.text));
    }
    if change != Change::NullMember && change != Change::DropMember && made(&answer) > good.tool_calls.len() {
        return Err(format!("{} calls of {}", made(&answer), good.tool_calls.len()));
    }
    Ok(true)
}

#[test]
fn changed_answers_never_pass_for_what_they_are_not() {
    let count: u64 = std::env::var("DISPATCH_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(20_000);
    let seeds: Vec<(Seed, RecordedAnswer)> = seeds()
        .into_iter()
        .filter_map(|seed| {
            let events = read_recorded(seed.wire, &seed.bytes, seed.streamed)?.ok()?;
            Some((seed, fold_events(&events)))
        })
        .collect();
    let begun = Clock::system().instant();
    let (mut read, mut refused, mut tried) = (0u64, 0u64, 0u64);
    let mut number = 0u64;
    let mut wrong = Vec::new();
    while tried < count && wrong.len() < 20 {
        number += 1;
        let mut draw = Draw(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        draw.next();
        let (seed, good) = &seeds[draw.below(seeds.len())];
        let change = CHANGES[draw.below(CHANGES.len())];
        let Some(bytes) = mutate(seed, change, &mut draw) else { continue };
        tried += 1;
        match judge(seed, good, change, &bytes) {
            Ok(true) => read += 1,
            Ok(false) => refused += 1,
            Err(why) => wrong.push(format!("{} {change:?} (mutation {number}): {why}\n{}", seed.name, String::from_utf8_lossy(&bytes))),
        }
    }
    println!(
        "{tried} mutations of {} answers in {:?}: {read} read, {refused} refused",
        seeds.len(),
        Clock::system().instant().duration_since(begun)
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
