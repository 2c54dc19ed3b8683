//! A log made small after its run has ended: deltas that follow one another are joined, block by block.
//!
//! Joined events keep the last numbers of those they stand for, and say from which number on they do. A cursor that
//! lies among those numbers has seen a part that is no longer told apart: its reader is given one `dispatch.reset`
//! with the whole texts instead.
//!
//! Must not know: who reads, where logs are kept, when they are old enough.

use std::collections::BTreeMap;

use serde_json::json;

use super::event::{Event, EventRecord, Rest, Segment};

/// Bytes of text after which a joined delta is complete, so that no event is too large for its readers.
const LONGEST: usize = 32 * 1024;
/// Events, and bytes of them, after which a segment is complete.
const CROWD: usize = 256;
const WEIGHT: usize = 256 * 1024;

/// The kind of a block whose deltas can be joined; with its id it names the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Text,
    Reasoning,
    ToolInput,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Reasoning => "reasoning",
            Self::ToolInput => "tool_input",
        }
    }

    fn delta(self, id: String, delta: String) -> Event {
        match self {
            Self::Text => Event::TextDelta { id, delta },
            Self::Reasoning => Event::ReasoningDelta { id, delta },
            Self::ToolInput => Event::ToolInputDelta { tool_call_id: id, delta },
        }
    }
}

type Block = (Kind, String);

/// The block that a delta belongs to, and its text.
fn part(record: &EventRecord) -> Option<(Block, String)> {
    if !record.kind().ends_with("_delta") {
        return None;
    }
    match record.event()? {
        Event::TextDelta { id, delta } => Some(((Kind::Text, id), delta)),
        Event::ReasoningDelta { id, delta } => Some(((Kind::Reasoning, id), delta)),
        Event::ToolInputDelta { tool_call_id, delta } => Some(((Kind::ToolInput, tool_call_id), delta)),
        _ => None,
    }
}

/// Deltas that follow one another.
#[derive(Default)]
struct Stretch {
    records: Vec<EventRecord>,
    parts: Vec<(Block, String)>,
}

impl Stretch {
    /// The stretch as few events: each block's texts, in the order in which the blocks first spoke.
    fn joined(self) -> Vec<EventRecord> {
        let Some(since) = self.records.first().map(|record| record.seq) else { return Vec::new() };
        let mut blocks: Vec<(Block, Vec<String>)> = Vec::new();
        for (block, text) in self.parts {
            let at = blocks.iter().position(|(known, _)| *known == block).unwrap_or_else(|| {
                blocks.push((block, vec![String::new()]));
                blocks.len() - 1
            });
            let Some((_, texts)) = blocks.get_mut(at) else { continue };
            match texts.last_mut() {
                Some(last) if last.is_empty() || last.len() + text.len() <= LONGEST => last.push_str(&text),
                _ => texts.push(text),
            }
        }
        let events: Vec<Event> =
            blocks.into_iter().flat_map(|((kind, id), texts)| texts.into_iter().map(move |text| kind.delta(id.clone(), text))).collect();
        if events.len() == self.records.len() {
            return self.records;
        }
        // Never more events than there were: each joined one holds at least one of them.
        let places = self.records.iter().skip(self.records.len() - events.len());
        places.zip(&events).map(|(place, event)| EventRecord { since: Some(since), ..EventRecord::new(place.seq, event) }).collect()
    }
}

/// The whole log of an ended run, made small; `None` when there is nothing to join.
pub fn compact(log: Vec<Segment>) -> Option<Vec<Segment>> {
    let rest = log.last().map_or(Rest::None, |segment| segment.rest);
    let before: usize = log.iter().map(|segment| segment.events.len()).sum();
    let mut units: Vec<Vec<EventRecord>> = Vec::new();
    let mut stretch = Stretch::default();
    for record in log.into_iter().flat_map(|segment| segment.events) {
        if let Some(part) = part(&record) {
            stretch.records.push(record);
            stretch.parts.push(part);
        } else {
            units.push(std::mem::take(&mut stretch).joined());
            units.push(vec![record]);
        }
    }
    units.push(stretch.joined());
    let after: usize = units.iter().map(Vec::len).sum();
    (after < before).then(|| packed(units, rest))
}

/// Packs units into segments; a unit stays whole, so that whoever reads a joined event reads all of its stretch.
fn packed(units: Vec<Vec<EventRecord>>, rest: Rest) -> Vec<Segment> {
    let (mut segments, mut events, mut bytes) = (Vec::new(), Vec::new(), 0);
    for unit in units {
        bytes += unit.iter().map(|record| record.body.len()).sum::<usize>();
        events.extend(unit);
        if events.len() >= CROWD || bytes >= WEIGHT {
            segments.push(Segment { events: std::mem::take(&mut events), rest: Rest::None });
            bytes = 0;
        }
    }
    if !events.is_empty() {
        segments.push(Segment { events, rest: Rest::None });
    }
    if let Some(last) = segments.last_mut() {
        last.rest = rest;
    }
    segments
}

/// The stretch of joined events that a cursor lies in: `next` is the number it wants, `found` what the log has from there on.
/// Its first and its last number.
pub fn cut(next: u64, found: &[EventRecord]) -> Option<(u64, u64)> {
    let since = found.first()?.since.filter(|since| *since < next)?;
    let last = found.iter().take_while(|record| record.since == Some(since)).last()?;
    Some((since, last.seq))
}

/// What a reader inside a stretch of joined events is told instead of them: the texts, from their beginning to the end
/// of the stretch, of all blocks that spoke in it.
#[derive(Default)]
pub struct Reset {
    texts: BTreeMap<Block, (bool, String)>,
}

impl Reset {
    /// Takes in the log, from its first event to the last of the stretch that begins at `since`.
    pub fn see(&mut self, record: &EventRecord, since: u64) {
        let Some((block, text)) = part(record) else { return };
        let (concerned, whole) = self.texts.entry(block).or_default();
        *concerned |= record.since == Some(since);
        whole.push_str(&text);
    }

    /// The event, in the place of the stretch's last one.
    pub fn event(self, seq: u64) -> EventRecord {
        let concerned = self.texts.into_iter().filter(|(_, (concerned, _))| *concerned);
        let blocks: Vec<_> = concerned.map(|((kind, id), (_, text))| json!({ "kind": kind.as_str(), "id": id, "text": text })).collect();
        EventRecord::new(seq, &Event::Custom { name: "dispatch.reset".into(), value: json!({ "blocks": blocks }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(seq: u64, id: &str, delta: &str) -> EventRecord {
        EventRecord::new(seq, &Event::TextDelta { id: id.into(), delta: delta.into() })
    }

    fn other(seq: u64) -> EventRecord {
        EventRecord::new(seq, &Event::Error { error: "x".into(), recoverable: true })
    }

    fn log(events: Vec<EventRecord>) -> Vec<Segment> {
        // One event a row, as slow models leave them.
        events.into_iter().map(|event| Segment { events: vec![event], rest: Rest::Caller }).collect()
    }

    fn events(segments: &[Segment]) -> Vec<(u64, Option<u64>, String)> {
        let text = |record: &EventRecord| part(record).map_or_else(String::new, |((_, id), text)| format!("{id}:{text}"));
        segments.iter().flat_map(|segment| &segment.events).map(|record| (record.seq, record.since, text(record))).collect()
    }

    #[test]
    fn deltas_are_joined_by_block_between_other_events() {
        let told =
            log(vec![other(0), text(1, "a", "1"), text(2, "b", "2"), text(3, "a", "3"), text(9, "b", "4"), other(10), text(11, "a", "5")]);
        let small = compact(told).unwrap();
        let joined = |seq, text: &str| (seq, Some(1), text.to_owned());
        let wanted = [(0, None, String::new()), joined(3, "a:13"), joined(9, "b:24"), (10, None, String::new()), (11, None, "a:5".into())];
        assert_eq!(events(&small), wanted);
        assert_eq!((small.len(), small[0].rest), (1, Rest::Caller), "one row, which rests as the log did");
        assert_eq!(compact(small), None, "there is nothing more to join");
    }

    #[test]
    fn long_texts_stay_in_pieces() {
        let piece = "x".repeat(LONGEST / 2);
        let small = compact(log((0..9).map(|seq| text(seq, "a", &piece)).collect())).unwrap();
        let seen = events(&small);
        assert_eq!(
            seen.iter().map(|(seq, since, _)| (*seq, *since)).collect::<Vec<_>>(),
            (4..9).map(|seq| (seq, Some(0))).collect::<Vec<_>>()
        );
        assert!(seen.iter().all(|(_, _, text)| text.len() <= LONGEST + 2));
    }

    #[test]
    fn a_cursor_inside_is_known_and_one_outside_is_left_alone() {
        let small =
            compact(log(vec![text(0, "a", "0"), other(1), text(2, "a", "1"), text(3, "b", "2"), text(4, "a", "3"), other(5)])).unwrap();
        let all: Vec<EventRecord> = small.iter().flat_map(|segment| segment.events.clone()).collect();
        let found = |next: u64| cut(next, &all[all.partition_point(|record| record.seq < next)..]);
        assert_eq!((0..7).map(found).collect::<Vec<_>>(), [None, None, None, Some((2, 4)), Some((2, 4)), None, None]);
        let mut reset = Reset::default();
        all.iter().take_while(|record| record.seq <= 4).for_each(|record| reset.see(record, 2));
        let told = reset.event(4);
        assert_eq!(told.seq, 4);
        let blocks = json!([{ "kind": "text", "id": "a", "text": "013" }, { "kind": "text", "id": "b", "text": "2" }]);
        assert_eq!(told.event(), Some(Event::Custom { name: "dispatch.reset".into(), value: json!({ "blocks": blocks }) }));
    }
}
