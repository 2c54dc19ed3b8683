//! Decompresses a gzip body as it arrives, with all its members (RFC 1952, section 2.2).
//!
//! Log files, block compressors and some proxies write several members one after the other; a decoder that stops after the first
//! silently loses the rest. A body that ends inside a member is an error.
//!
//! Must not know: how large a body may become. Each chunk is of bounded size, so that a caller that counts stops a bomb early.

use std::io::{self, Write as _};

use bytes::{Buf, Bytes};
use flate2::write::GzDecoder;

/// Approximate maximum size of a decompressed chunk, in bytes.
const PART_SIZE: usize = 64 * 1024;

/// The state between two chunks of a body.
#[derive(Default)]
pub(super) struct GzipReader {
    /// Compressed bytes that have arrived and are not decompressed yet.
    input: Bytes,
    member: Option<GzDecoder<Vec<u8>>>,
    /// At least one member has ended: zeros after it are padding, which `gzip` accepts, too.
    may_be_padded: bool,
    members: usize,
}

/// Maximum number of members of a body: an empty one is 20 bytes that decompress to nothing, so that no limit on the output ends a body of them.
const MAX_MEMBERS: usize = 10_000;

impl GzipReader {
    /// Takes the next compressed bytes, once [`GzipReader::next_part`] returns `None`.
    pub fn push(&mut self, compressed: Bytes) {
        debug_assert!(self.input.is_empty(), "what came before is inflated first");
        self.input = compressed;
    }

    /// Decompresses a chunk of the input. `None`: all input is decompressed and returned.
    pub fn next_part(&mut self) -> io::Result<Option<Bytes>> {
        let mut part = Vec::new();
        while part.len() < PART_SIZE && self.input.has_remaining() {
            if self.member.is_none() && self.may_be_padded && self.input.first() == Some(&0) {
                self.input.advance(1);
                continue;
            }
            if self.member.is_none() {
                self.members += 1;
                if self.members > MAX_MEMBERS {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the body has too many gzip members"));
                }
            }
            let member = self.member.get_or_insert_with(|| GzDecoder::new(Vec::new()));
            let read = member.write(&self.input)?;
            part.append(member.get_mut());
            self.input.advance(read);
            if read == 0 {
                // The following bytes belong to another member.
                member.try_finish()?;
                part.append(member.get_mut());
                self.member = None;
                self.may_be_padded = true;
            }
        }
        if let Some(member) = &mut self.member
            && !self.input.has_remaining()
        {
            member.flush()?;
            part.append(member.get_mut());
        }
        Ok((!part.is_empty()).then(|| part.into()))
    }

    /// Ends the body and returns its rest, if there is one. Error: it ends inside a member, or a checksum is wrong.
    pub fn finish(&mut self) -> io::Result<Option<Bytes>> {
        let Some(mut member) = self.member.take() else { return Ok(None) };
        member.try_finish()?;
        let rest = std::mem::take(member.get_mut());
        Ok((!rest.is_empty()).then(|| rest.into()))
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Decompresses input that arrives in pieces of this size; returns the size of the largest chunk, and the whole text.
    fn inflate(compressed: &[u8], size: usize) -> io::Result<(usize, Vec<u8>)> {
        let (mut reader, mut largest, mut whole) = (GzipReader::default(), 0, Vec::new());
        for piece in compressed.chunks(size) {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(part) = reader.next_part()? {
                largest = largest.max(part.len());
                whole.extend_from_slice(&part);
            }
        }
        if let Some(rest) = reader.finish()? {
            whole.extend_from_slice(&rest);
        }
        Ok((largest, whole))
    }

    #[test]
    fn all_members_are_inflated_however_they_arrive() {
        let text: Vec<u8> = (0..100_000u32).flat_map(u32::to_be_bytes).collect();
        let (first, second) = text.split_at(123_456);
        let members = [gzip(first), gzip(b""), gzip(second)].concat();
        for size in [1, 7, 1_000, members.len()] {
            assert!(inflate(&members, size).unwrap().1 == text, "in pieces of {size}");
            assert!(inflate(&[members.as_slice(), &[0; 10]].concat(), size).unwrap().1 == text, "padded, in pieces of {size}");
        }
        assert_eq!(inflate(b"", 1).unwrap().1, b"");
    }

    #[test]
    fn truncated_or_corrupt_gzip_is_an_error() {
        let members = [gzip(b"one"), gzip(b"two")].concat();
        for end in (1..members.len()).filter(|end| *end != gzip(b"one").len()) {
            assert!(inflate(&members[..end], 5).is_err(), "cut after {end} bytes");
        }
        let mut broken = members.clone();
        let last = broken.len() - 5;
        broken[last] ^= 1;
        assert!(inflate(&broken, 5).is_err(), "a wrong checksum");
        assert!(inflate(&[members.as_slice(), b"more"].concat(), 5).is_err(), "something else behind it");
        assert!(inflate(b"not gzip", 100).is_err());
    }

    #[test]
    fn members_without_content_come_to_an_end() {
        let members = gzip(b"").repeat(MAX_MEMBERS + 1);
        assert!(inflate(&members, members.len()).is_err());
        let members = gzip(b"a").repeat(1_000);
        assert_eq!(inflate(&members, members.len()).unwrap().1.len(), 1_000);
    }

    #[test]
    fn chunks_are_small_at_any_ratio() {
        let bomb = gzip(&vec![0; 20_000_000]);
        let (largest, whole) = inflate(&bomb, bomb.len()).unwrap();
        assert_eq!(whole.len(), 20_000_000);
        assert!(largest <= 4 * PART_SIZE, "{largest}");
    }

    #[test]
    fn flushed_data_arrives_at_once() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut reader = GzipReader::default();
        for line in ["data: one\n\n", "data: two\n\n"] {
            encoder.write_all(line.as_bytes()).unwrap();
            encoder.flush().unwrap();
            reader.push(std::mem::take(encoder.get_mut()).into());
            assert_eq!(reader.next_part().unwrap().as_deref(), Some(line.as_bytes()));
            assert_eq!(reader.next_part().unwrap(), None);
        }
    }
}
