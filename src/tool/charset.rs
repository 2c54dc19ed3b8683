//! Decodes bodies by the charset of their content type.
//!
//! Must not know: what the text means.

use std::borrow::Cow;

use encoding_rs::{Encoding, UTF_8};

/// The text of a body.
pub struct DecodedText<'b> {
    pub text: Cow<'b, str>,
    /// Some bytes are invalid in the charset; U+FFFD stands in their place.
    pub is_malformed: bool,
}

/// Decodes a body. Text is decoded with the charset of its content type, or else as UTF-8; a byte order mark takes precedence and is not
/// part of the text. Servers also name a charset for pictures and archives, where it is meaningless: these are text only if they are UTF-8.
pub fn decode<'b>(body: &'b [u8], content_type: &str) -> DecodedText<'b> {
    let mut parameters = content_type.split(';');
    let media_type = parameters.next().unwrap_or_default().trim().to_ascii_lowercase();
    if !is_text(&media_type) {
        let text = String::from_utf8_lossy(body);
        let is_malformed = matches!(text, Cow::Owned(_));
        return DecodedText { text, is_malformed };
    }
    let (text, _, is_malformed) = parameters.find_map(charset).unwrap_or(UTF_8).decode(body);
    DecodedText { text, is_malformed }
}

fn is_text(media_type: &str) -> bool {
    media_type.starts_with("text/")
        || ["json", "xml", "javascript", "yaml", "csv", "x-www-form-urlencoded"].iter().any(|kind| media_type.ends_with(kind))
}

fn charset(parameter: &str) -> Option<&'static Encoding> {
    let (name, label) = parameter.split_once('=')?;
    let is_charset = name.trim().eq_ignore_ascii_case("charset");
    is_charset.then(|| Encoding::for_label(label.trim().trim_matches(['"', '\'']).as_bytes())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_in_their_charset() {
        let cases: [(&[u8], &str, &str, bool); 10] = [
            ("café – 5 €".as_bytes(), "text/plain", "café – 5 €", false),
            (b"caf\xe9 \x96 5 \x80", "text/plain; charset=windows-1252", "café – 5 €", false),
            (b"{\"a\": \"\xe9\"}", "application/json;v=1; Charset=\"ISO-8859-1\"", "{\"a\": \"é\"}", false),
            (b"\x83e\x83X\x83g", "text/html; charset=Shift_JIS", "テスト", false),
            (b"\xef\xbb\xbf{}", "application/json; charset=utf-8", "{}", false),
            (b"\xff\xfe{\0}\0", "application/problem+json", "{}", false),
            (b"caf\xe9", "application/json", "caf\u{fffd}", true),
            (b"caf\xe9", "text/plain; charset=nobody-knows-it", "caf\u{fffd}", true),
            (b"\x89PNG\xff", "image/png; charset=iso-8859-1", "\u{fffd}PNG\u{fffd}", true),
            ("é".as_bytes(), "", "é", false),
        ];
        for (body, content_type, wanted, is_malformed) in cases {
            let read = decode(body, content_type);
            assert_eq!((read.text.as_ref(), read.is_malformed), (wanted, is_malformed), "{content_type}");
        }
    }
}
