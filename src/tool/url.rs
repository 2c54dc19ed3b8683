//! A URL of a template's pieces, in which no value leaves the part that it was put in.
//!
//! A value at the very start is the address itself and stays as it is; the egress door judges it. A value in the host may hold what
//! names and ports are made of, and nothing else. Everywhere else it is percent-encoded, so that it is one segment of the path, or
//! one value of the query. An empty path segment would address another resource, often the whole collection, so methods that change something
//! refuse it.
//!
//! Must not know: where the values come from, what is done with the URL.

use std::ops::Range;

use http::Method;

use crate::error::{Error, Kind, Result};
use crate::expr::Piece;
use crate::secret::Secret;

/// A URL, and what the secrets in it were encoded as.
pub struct Joined {
    pub url: String,
    pub encoded: Vec<Secret>,
}

/// Builds a call's URL from its pieces. Error `invalid_url`: a value is not allowed at its place in the template.
pub fn join(pieces: &[Piece], method: &Method) -> Result<Joined> {
    let (mut url, mut encoded) = (String::new(), Vec::new());
    let mut values: Vec<(Range<usize>, &str)> = Vec::new();
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text(text) => url.push_str(text),
            Piece::Value { text, .. } if is_start(pieces, index) => url.push_str(text),
            Piece::Value { text, source, .. } if in_authority(&url) => url.push_str(host(&url, text, source)?),
            Piece::Value { text, source, secret } => {
                let start = url.len();
                url.push_str(&encode(text));
                if *secret && let Some(shown) = url.get(start..) {
                    encoded.push(Secret::new(shown));
                }
                values.push((start..url.len(), source));
            }
        }
    }
    keep_segments(&url, &values, method)?;
    Ok(Joined { url, encoded })
}

/// Whether nothing but blanks stands before this piece.
fn is_start(pieces: &[Piece], index: usize) -> bool {
    pieces.iter().take(index).all(|before| matches!(before, Piece::Text(text) if text.trim().is_empty()))
}

/// What a URL's parser takes for a slash, and what else ends a host.
const SLASHES: [char; 2] = ['/', '\\'];
const ENDS: [char; 4] = ['/', '\\', '?', '#'];

/// Where the host, with its port, begins and ends; its end is the URL's when nothing follows it yet.
fn authority(url: &str) -> Option<Range<usize>> {
    let scheme = url.find(':')? + 1;
    let start = url.len() - url.get(scheme..)?.trim_start_matches(SLASHES).len();
    let end = url.get(start..)?.find(ENDS).map_or(url.len(), |length| start + length);
    Some(start..end)
}

fn in_authority(url: &str) -> bool {
    authority(url).is_none_or(|authority| authority.end == url.len())
}

fn host<'t>(url: &str, text: &'t str, source: &str) -> Result<&'t str> {
    // An address in brackets and a port belong to a whole host only.
    let whole = url.ends_with(SLASHES);
    let fits = |letter: char| letter.is_alphanumeric() || "-._".contains(letter) || (whole && ":[]".contains(letter));
    if text.chars().all(fits) {
        return Ok(text);
    }
    let why = "stands in the URL's host, where its value may only have letters, digits, `-`, `.` and `_`";
    Err(refused(source, &format!("{why}; a path begins with a `/` of the template's own")))
}

/// Everything but the characters that mean the same encoded or not (RFC 3986, 2.3).
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Dots cannot be percent-encoded: `.` and `..` change the path in every spelling. Nor can an empty value be encoded.
fn keep_segments(url: &str, values: &[(Range<usize>, &str)], method: &Method) -> Result<()> {
    let Some(Range { end: mut start, .. }) = authority(url) else { return Ok(()) };
    let path = url.get(start..).unwrap_or_default().split(['?', '#']).next().unwrap_or_default();
    let only_reads = matches!(*method, Method::GET | Method::HEAD);
    for segment in path.split(SLASHES) {
        let end = start + segment.len();
        if let Some((_, source)) = values.iter().find(|(value, _)| value.start <= end && value.end >= start) {
            if matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..") {
                return Err(refused(source, "would make a segment of the URL's path `.` or `..`, which changes the path"));
            }
            if segment.is_empty() && !only_reads {
                let why = format!(
                    "has no value, which would leave a segment of the URL's path empty and send the {method} to another resource; \
                     check where the value comes from, or skip the call if there is none"
                );
                return Err(refused(source, &why));
            }
        }
        start = end + 1;
    }
    Ok(())
}

fn refused(source: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, "invalid_url", format!("`{source}` {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a URL from these pieces; those in braces are values.
    fn joined(method: &Method, pieces: &[&str]) -> Result<String> {
        let piece = |piece: &&str| match piece.strip_prefix('{') {
            Some(value) => Piece::Value { text: value.trim_end_matches('}').to_owned(), source: "{{ id }}".into(), secret: false },
            None => Piece::Text((*piece).to_owned()),
        };
        join(&pieces.iter().map(piece).collect::<Vec<_>>(), method).map(|joined| joined.url)
    }

    #[test]
    fn writes_refuse_an_empty_path_segment() {
        for pieces in [
            ["http://h/users/", "{}", ""].as_slice(),
            &["http://h/users/", "{}", "/orders"],
            &["http://h/users/", "{}", "?force=1"],
            &["{http://h/api}", "/", "{}", "{}"],
            &["http://h/", "{}"],
        ] {
            for method in [Method::DELETE, Method::POST, Method::PUT, Method::PATCH] {
                let error = joined(&method, pieces).unwrap_err();
                assert_eq!(error.code(), "invalid_url", "{method} {pieces:?}");
                assert!(error.message().contains("{{ id }}") && error.message().contains(method.as_str()), "{}", error.message());
            }
            assert!(joined(&Method::GET, pieces).is_ok() && joined(&Method::HEAD, pieces).is_ok(), "{pieces:?}");
        }
        for pieces in [
            ["http://h/users/", "{7}", ""].as_slice(),
            &["http://h/users", "{}"],
            &["http://h/users/v", "{}", "/"],
            &["http://h//users/", "{7}", "/"],
            &["http://h/users/?id=", "{}"],
            &["http://h", "{}", "/users/"],
            &["{http://h/users/}"],
        ] {
            assert!(joined(&Method::DELETE, pieces).is_ok(), "{pieces:?}");
        }
    }
}
