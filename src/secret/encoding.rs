//! Encodings in which one secret has too many forms to list: any character may be percent-encoded or written as an HTML entity, and base64
//! may be broken into lines at any place. They are decoded while a text is searched.

/// An encoding that is decoded during a search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// `%73%6b` (RFC 3986).
    Percent,
    /// `&#115;`, `&#x73;` and the five entities of XML.
    Entities,
    /// Base64 and hexadecimal in lines (RFC 2045), also with the line breaks escaped as in JSON.
    Lines,
}

/// Longest entity that is decoded, from `&` to `;`: leading zeros are allowed.
const MAX_ENTITY: usize = 12;

/// The next unit of an encoded text.
pub(super) struct Unit {
    bytes: [u8; 4],
    length: usize,
    /// How many bytes of the text it takes.
    pub width: usize,
}

impl Unit {
    /// A byte that is not encoded.
    const fn plain(byte: u8) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1, width: 1 }
    }

    /// The decoded bytes.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Encoding {
    pub const ALL: [Self; 3] = [Self::Percent, Self::Entities, Self::Lines];

    /// Returns whether a text may contain something in this encoding.
    pub fn occurs_in(self, text: &str) -> bool {
        match self {
            Self::Percent => text.contains('%'),
            Self::Entities => text.contains('&'),
            Self::Lines => text.contains(['\n', '\r']) || text.contains("\\n") || text.contains("\\r"),
        }
    }

    /// Decodes the first unit of a text that is not empty.
    pub fn first(self, text: &[u8]) -> Option<Unit> {
        let plain = Unit::plain(*text.first()?);
        let decoded = match self {
            Self::Percent => percent(text),
            Self::Entities => entity(text),
            Self::Lines => line_break(text),
        };
        Some(decoded.unwrap_or(plain))
    }
}

fn percent(text: &[u8]) -> Option<Unit> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?;
    Some(Unit { width: 3, ..Unit::plain(byte) })
}

fn entity(text: &[u8]) -> Option<Unit> {
    let text = text.strip_prefix(b"&")?;
    let end = text.iter().take(MAX_ENTITY - 1).position(|byte| *byte == b';')?;
    let name = std::str::from_utf8(text.get(..end)?).ok()?.to_ascii_lowercase();
    let letter = match name.as_str() {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        number => {
            let number = number.strip_prefix('#')?;
            let (digits, radix) = number.strip_prefix('x').map_or((number, 10), |digits| (digits, 16));
            char::from_u32(u32::from_str_radix(digits, radix).ok()?)?
        }
    };
    let mut bytes = [0; 4];
    let length = letter.encode_utf8(&mut bytes).len();
    // The `&` and the `;` as well.
    Some(Unit { bytes, length, width: end + 2 })
}

/// A line break and the indentation of the next line are nothing.
fn line_break(text: &[u8]) -> Option<Unit> {
    let breaks = match text {
        [b'\n' | b'\r', ..] => 1,
        [b'\\', b'n' | b'r', ..] => 2,
        _ => return None,
    };
    let indentation = text.iter().skip(breaks).take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    Some(Unit { bytes: [0; 4], length: 0, width: breaks + indentation })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(encoding: Encoding, text: &str) -> String {
        let (mut decoded, mut rest) = (Vec::new(), text.as_bytes());
        while let Some(unit) = encoding.first(rest) {
            decoded.extend_from_slice(unit.bytes());
            rest = &rest[unit.width..];
        }
        String::from_utf8(decoded).unwrap()
    }

    #[test]
    fn texts_are_decoded() {
        for (encoding, text, decoded) in [
            (Encoding::Percent, "a%62%63d%zz%e2%82%ac%", "abcd%zz\u{20ac}%"),
            (Encoding::Entities, "&#115;&#x6B;&#X6b;&amp;&LT;&#0034;&#8364; & &nbsp;&#xd800;&#99", "skk&<\"\u{20ac} & &nbsp;&#xd800;&#99"),
            (Encoding::Lines, "QUJD\r\n  REVG\\r\\nR0hJ\n", "QUJDREVGR0hJ"),
        ] {
            assert_eq!(decode(encoding, text), decoded);
            assert!(encoding.occurs_in(text) && !encoding.occurs_in("plain"));
        }
    }
}
