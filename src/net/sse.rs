//! A reader of server-sent events (WHATWG HTML, "9.2.6 Interpreting an event stream").
//!
//! Linear in the bytes read, and capped: an event larger than the cap is an error, never a growing buffer.
//! An event that its blank line did not complete is not an event, as the standard says. Readers of vendors' streams ask
//! for it with [`SseReader::finish`], since many servers close right after the last line.

use std::collections::VecDeque;

use futures_util::{Stream, StreamExt, stream};

/// The largest event taken by default: 1 MiB.
pub const DEFAULT_CAP: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The event's name; empty when the stream gave none (then it is a "message").
    pub event: String,
    /// The data lines, joined by line feeds.
    pub data: String,
    /// The last id seen up to and including this event.
    pub id: Option<String>,
}

/// The event grew past its cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {cap} bytes")]
pub struct TooLarge {
    pub cap: usize,
}

/// A push reader: feed it bytes as they come, take events as they are complete.
#[derive(Debug)]
pub struct SseReader {
    cap: usize,
    /// The unfinished line.
    line: Vec<u8>,
    first_line: bool,
    /// A line ended with CR: a LF that follows belongs to it.
    after_cr: bool,
    data: Vec<u8>,
    has_data: bool,
    event: String,
    id: Option<String>,
    ready: VecDeque<Event>,
}

impl SseReader {
    /// A reader whose events, and lines, are at most `cap` bytes long.
    pub fn new(cap: usize) -> Self {
        Self {
            cap,
            line: Vec::new(),
            first_line: true,
            after_cr: false,
            data: Vec::new(),
            has_data: false,
            event: String::new(),
            id: None,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), TooLarge> {
        if std::mem::take(&mut self.after_cr) && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(at) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (head, rest) = bytes.split_at(at);
            self.end_line(head)?;
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                [_, rest @ ..] => rest,
                [] => &[],
            };
        }
        self.grow(self.line.len(), bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// The next complete event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// The event that the end of the stream left without its blank line, if it has data.
    pub fn finish(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        // The line was within the cap when it was read.
        if !line.is_empty() && self.take_line(&line).is_err() {
            return None;
        }
        self.end_event();
        self.ready.pop_front()
    }

    fn grow(&self, have: usize, more: usize) -> Result<(), TooLarge> {
        if have.saturating_add(more) > self.cap { Err(TooLarge { cap: self.cap }) } else { Ok(()) }
    }

    fn end_line(&mut self, tail: &[u8]) -> Result<(), TooLarge> {
        self.grow(self.line.len(), tail.len())?;
        if self.line.is_empty() {
            return self.take_line(tail);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(tail);
        let taken = self.take_line(&line);
        line.clear();
        self.line = line;
        taken
    }

    fn take_line(&mut self, mut line: &[u8]) -> Result<(), TooLarge> {
        if std::mem::take(&mut self.first_line) {
            line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        }
        if line.is_empty() {
            self.end_event();
            return Ok(());
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => return Ok(()),
            Some(at) => {
                let (name, rest) = line.split_at(at);
                let value = rest.strip_prefix(b":").unwrap_or(rest);
                (name, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line, &[][..]),
        };
        match name {
            b"data" => self.add_data(value)?,
            b"event" => self.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            _ => {}
        }
        Ok(())
    }

    fn add_data(&mut self, value: &[u8]) -> Result<(), TooLarge> {
        self.grow(self.data.len(), value.len().saturating_add(1))?;
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        self.data.extend_from_slice(value);
        Ok(())
    }

    fn end_event(&mut self) {
        let event = std::mem::take(&mut self.event);
        if !std::mem::take(&mut self.has_data) {
            return;
        }
        let data = std::mem::take(&mut self.data);
        let data = String::from_utf8(data).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        self.ready.push_back(Event { event, data, id: self.id.clone() });
    }
}

/// What ends a stream of events early.
#[derive(Debug)]
pub enum Fault<E> {
    /// The bytes under it failed.
    Bytes(E),
    TooLarge(TooLarge),
}

/// The events of a stream of bytes; the last one also without its blank line.
pub fn events<B, E>(
    bytes: impl Stream<Item = Result<B, E>> + Send + 'static,
    cap: usize,
) -> impl Stream<Item = Result<Event, Fault<E>>> + Send
where
    B: AsRef<[u8]> + Send + 'static,
    E: Send + 'static,
{
    let state = Some((Box::pin(bytes), SseReader::new(cap)));
    stream::unfold(state, |state| async move {
        let (mut bytes, mut reader) = state?;
        loop {
            if let Some(event) = reader.next_event() {
                return Some((Ok(event), Some((bytes, reader))));
            }
            let Some(part) = bytes.next().await else {
                return reader.finish().map(|event| (Ok(event), None));
            };
            match part {
                Err(error) => return Some((Err(Fault::Bytes(error)), None)),
                Ok(part) => {
                    if let Err(error) = reader.feed(part.as_ref()) {
                        return Some((Err(Fault::TooLarge(error)), None));
                    }
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(parts: &[&[u8]]) -> Vec<Event> {
        let mut reader = SseReader::new(DEFAULT_CAP);
        for part in parts {
            reader.feed(part).unwrap();
        }
        std::iter::from_fn(|| reader.next_event()).collect()
    }

    fn data(parts: &[&[u8]]) -> Vec<String> {
        read(parts).into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn every_line_ending_ends_a_line() {
        for text in ["data: a\ndata: b\n\n", "data: a\r\ndata: b\r\n\r\n", "data: a\rdata: b\r\r", "data: a\r\ndata: b\n\r\n"] {
            assert_eq!(data(&[text.as_bytes()]), ["a\nb"], "{text:?}");
        }
    }

    #[test]
    fn a_mark_at_the_start_is_not_data() {
        assert_eq!(data(&[b"\xEF\xBB\xBFdata: a\n\n"]), ["a"]);
        assert_eq!(data(&[b"\xEF", b"\xBB", b"\xBFdata: a\n\n"]), ["a"]);
        assert_eq!(data(&[b"data: a\n\n\xEF\xBB\xBFdata: b\n\ndata: c\n\n"]), ["a", "c"]);
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        let events =
            read(&[b": comment\nid: 7\nevent: delta\ndata:  two spaces\nretry: 5\nunknown: x\n\ndata\n\nevent: lost\n\ndata:x\n\n"]);
        let expected = [
            Event { event: "delta".into(), data: " two spaces".into(), id: Some("7".into()) },
            Event { event: String::new(), data: String::new(), id: Some("7".into()) },
            Event { event: String::new(), data: "x".into(), id: Some("7".into()) },
        ];
        assert_eq!(events, expected);
    }

    #[test]
    fn an_unfinished_event_is_not_an_event() {
        assert_eq!(data(&[b"data: a\n\ndata: b\n"]), ["a"]);
        assert_eq!(data(&[b"data: a\n\ndata: b"]), ["a"]);
    }

    #[test]
    fn the_end_of_a_stream_completes_its_last_event() {
        for text in ["data: a\n\ndata: b\n", "data: a\n\ndata: b", "data: a\r\n\r\ndata: b\r"] {
            let mut reader = SseReader::new(DEFAULT_CAP);
            reader.feed(text.as_bytes()).unwrap();
            assert_eq!(reader.next_event().unwrap().data, "a");
            assert_eq!((reader.next_event(), reader.finish().unwrap().data), (None, "b".to_owned()), "{text:?}");
            assert_eq!(reader.finish(), None);
        }
    }

    #[test]
    fn an_event_at_the_cap_passes_and_one_above_does_not() {
        let fits = |length: usize| SseReader::new(64).feed(format!("data:{}\n\n", "x".repeat(length)).as_bytes()).is_ok();
        assert!(fits(59));
        assert!(!fits(60));
        let mut reader = SseReader::new(64);
        reader.feed(b"data:123456789012345678901234567890\n").unwrap();
        reader.feed(b"data:123456789012345678901234567890\n").unwrap();
        assert!(reader.feed(b"data:1234\n").is_err(), "many lines of one event count together");
        assert!(SseReader::new(64).feed(&[b'x'; 65]).is_err(), "a line without an end counts too");
    }

    #[test]
    fn a_large_event_in_small_parts_is_read_in_one_pass() {
        let mut reader = SseReader::new(64 << 20);
        let part = vec![b'x'; 4096];
        reader.feed(b"data: ").unwrap();
        for _ in 0..4096 {
            reader.feed(&part).unwrap();
        }
        reader.feed(b"\n\n").unwrap();
        assert_eq!(reader.next_event().unwrap().data.len(), 16 << 20);
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(
            text in "(data|event|id|:| |x|\n|\r|\r\n|é|\u{feff}){0,60}",
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let parts: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(read(&parts), read(&[bytes]));
        }
    }
}
