//! A reader of AWS event streams (`application/vnd.amazon.eventstream`): length-prefixed frames with checksums, each of which becomes an
//! [`Event`] as a server-sent one would.
//!
//! An event is named by its frame's `:event-type`. An error is named `exception:` with the error's type.

use std::collections::VecDeque;

use aws_smithy_eventstream::frame::read_message_from;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use serde_json::json;

use super::transport::EventFault;
use crate::net::{self, sse::Event};

/// The beginning of an event's name that marks an error.
pub(super) const EXCEPTION_PREFIX: &str = "exception:";

/// Bytes of a frame without headers and payload: prelude and checksum.
const MIN_FRAME_LEN: usize = 16;

/// A stream that is not framed as agreed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame is larger than {cap} bytes")]
    TooLarge { cap: usize },
    #[error("a frame is broken: {why}")]
    Broken { why: String },
}

/// A push reader: feed it bytes as they come, take events as their frames are complete.
#[derive(Debug)]
pub(super) struct FrameReader {
    cap: usize,
    /// The bytes of the unfinished frame.
    buffer: BytesMut,
    ready: VecDeque<Event>,
}

impl FrameReader {
    /// Makes a reader whose frames are at most `cap` bytes long.
    pub fn new(cap: usize) -> Self {
        Self { cap, buffer: BytesMut::new(), ready: VecDeque::new() }
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        self.buffer.extend_from_slice(bytes);
        while let Some(frame) = self.split_frame()? {
            self.ready.push_back(read_frame(frame)?);
        }
        Ok(())
    }

    /// Returns the next complete event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Splits the first frame off the buffer, once all of it is there. Its first four bytes say how long it is.
    fn split_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(mut head) = self.buffer.get(..size_of::<u32>()) else { return Ok(None) };
        let len = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
        if len > self.cap {
            return Err(FrameError::TooLarge { cap: self.cap });
        }
        if len < MIN_FRAME_LEN {
            return Err(FrameError::Broken { why: format!("its length is {len} bytes") });
        }
        Ok((self.buffer.len() >= len).then(|| self.buffer.split_to(len).freeze()))
    }
}

fn read_frame(frame: Bytes) -> Result<Event, FrameError> {
    let message = read_message_from(frame).map_err(|error| FrameError::Broken { why: error.to_string() })?;
    let header = |name: &str| {
        let found = message.headers().iter().find(|header| header.name().as_str() == name)?;
        found.value().as_string().ok().map(|text| text.as_str().to_owned())
    };
    let payload = String::from_utf8_lossy(message.payload()).into_owned();
    let (event, data) = match header(":message-type").as_deref() {
        Some("exception") => (exception(header(":exception-type")), payload),
        // An error outside of the service's model has its words in headers.
        Some("error") => (exception(header(":error-code")), json!({ "message": header(":error-message") }).to_string()),
        _ => (header(":event-type").unwrap_or_default(), payload),
    };
    Ok(Event { event, data, id: None })
}

fn exception(kind: Option<String>) -> String {
    format!("{EXCEPTION_PREFIX}{}", kind.unwrap_or_default())
}

/// Returns the events of a stream of bytes. Bytes of a frame that never became complete are dropped.
pub(super) fn events(bytes: BoxStream<'static, Result<Bytes, net::Error>>, cap: usize) -> BoxStream<'static, Result<Event, EventFault>> {
    let state = Some((bytes, FrameReader::new(cap)));
    let events = stream::unfold(state, |state| async move {
        let (mut bytes, mut reader) = state?;
        loop {
            if let Some(event) = reader.next_event() {
                return Some((Ok(event), Some((bytes, reader))));
            }
            match bytes.next().await? {
                Err(error) => return Some((Err(EventFault::Bytes(error)), None)),
                Ok(part) => {
                    if let Err(error) = reader.feed(&part) {
                        return Some((Err(EventFault::Framing(error.to_string())), None));
                    }
                }
            }
        }
    });
    events.boxed()
}

#[cfg(test)]
pub(super) mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};

    use super::*;

    /// Writes one frame with text headers, as a server would.
    pub(in crate::provider) fn frame(headers: &[(&'static str, &str)], payload: &str) -> Vec<u8> {
        let mut message = Message::new(payload.as_bytes().to_vec());
        for (name, value) in headers {
            message = message.add_header(Header::new(*name, HeaderValue::String(value.to_string().into())));
        }
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).unwrap();
        bytes
    }

    /// Writes one event.
    pub(in crate::provider) fn event_frame(name: &str, payload: &str) -> Vec<u8> {
        frame(&[(":event-type", name), (":content-type", "application/json"), (":message-type", "event")], payload)
    }

    fn read(parts: &[&[u8]], cap: usize) -> Result<Vec<Event>, FrameError> {
        let mut reader = FrameReader::new(cap);
        for part in parts {
            reader.feed(part)?;
        }
        Ok(std::iter::from_fn(|| reader.next_event()).collect())
    }

    fn event(name: &str, data: &str) -> Event {
        Event { event: name.into(), data: data.into(), id: None }
    }

    #[test]
    fn frames_become_events_however_they_are_cut() {
        let stream = [
            event_frame("first", "{\"a\":1}"),
            frame(&[(":message-type", "exception"), (":exception-type", "throttlingException")], "{\"message\":\"slow down\"}"),
            frame(&[(":message-type", "error"), (":error-code", "InternalError"), (":error-message", "gone")], ""),
        ]
        .concat();
        let expected = vec![
            event("first", "{\"a\":1}"),
            event("exception:throttlingException", "{\"message\":\"slow down\"}"),
            event("exception:InternalError", "{\"message\":\"gone\"}"),
        ];
        for size in [1, 3, 16, 1_000] {
            let parts: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(read(&parts, 4_096), Ok(expected.clone()), "in parts of {size} bytes");
        }
    }

    #[test]
    fn a_frame_that_is_too_large_or_broken_is_refused() {
        let whole = event_frame("first", "{\"a\":1}");
        assert_eq!(read(&[&whole], 32), Err(FrameError::TooLarge { cap: 32 }));
        let mut flipped = whole.clone();
        let last = flipped.len() - 6;
        flipped[last] ^= 1;
        assert!(matches!(read(&[&flipped], 4_096), Err(FrameError::Broken { .. })));
        assert!(matches!(read(&[&[0, 0, 0, 3]], 4_096), Err(FrameError::Broken { .. })));
        assert_eq!(read(&[&whole[..whole.len() - 1]], 4_096), Ok(Vec::new()));
    }
}
