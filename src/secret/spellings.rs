//! The forms in which a service may return a secret that it was sent.
//!
//! A host made from a secret is returned in lower case, quoted JSON is escaped, queries and forms are percent-encoded, and a debugging
//! service shows an `Authorization` header in base64. All forms are in lower case: the matcher ignores the case of ASCII letters.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// Minimum length in bytes for base64, hexadecimal and reversed forms: those of shorter secrets occur by chance.
const MIN_ENCODED: usize = 8;
/// Longer secrets are searched only as they are, in JSON and in base64: all forms of such a text would need too much memory.
const MAX_FULLY_SPELLED: usize = 4 * 1024;

/// What `encodeURIComponent` does not encode, besides letters and digits.
const COMPONENT: &[u8] = b"-._~!*'()";
/// The same for a path segment (RFC 3986, `pchar`) and a query.
const SEGMENT: &[u8] = b"-._~!$&'()*+,;=:@";
const QUERY: &[u8] = b"-._~!$&'()*+,;=:@/?";

/// Returns every form of a secret, in lower case.
pub(super) fn spellings(secret: &str) -> BTreeSet<String> {
    let mut forms = BTreeSet::new();
    let mut add = |form: String| forms.insert(form.to_ascii_lowercase());
    add(secret.to_owned());
    add(secret.to_lowercase());
    add(secret.to_uppercase());
    let once = json(secret);
    let is_short = secret.len() <= MAX_FULLY_SPELLED;
    if is_short {
        once.iter().flat_map(|form| json(form)).for_each(|form| _ = add(form));
        careful_json(secret).into_iter().for_each(|form| _ = add(form));
        percent_encoded(secret).into_iter().for_each(|form| _ = add(form));
        add(html(secret));
    }
    once.into_iter().for_each(|form| _ = add(form));
    if secret.len() >= MIN_ENCODED {
        for form in base64(secret.as_bytes()) {
            let url_alphabet = form.replace('+', "-").replace('/', "_");
            if is_short {
                add(form.replace('/', "\\/"));
                add(percent(&form, b""));
            }
            add(url_alphabet);
            add(form);
        }
        if is_short {
            add(hexadecimal(secret));
            add(secret.chars().rev().collect());
        }
    }
    forms
}

/// Returns the forms that a service may break into lines, in lower case: base64 and hexadecimal. In any other form the parts would be found in
/// unrelated lines.
pub(super) fn broken_into_lines(secret: &str) -> BTreeSet<String> {
    if secret.len() < MIN_ENCODED {
        return BTreeSet::new();
    }
    let mut forms: BTreeSet<String> = base64(secret.as_bytes()).into_iter().map(|form| form.to_ascii_lowercase()).collect();
    let url_alphabet: Vec<String> = forms.iter().map(|form| form.replace('+', "-").replace('/', "_")).collect();
    forms.extend(url_alphabet);
    if secret.len() <= MAX_FULLY_SPELLED {
        forms.insert(hexadecimal(secret));
    }
    forms
}

fn hexadecimal(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a text as it is written between the quotes of a JSON string.
fn quoted(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(&json).to_owned()
}

/// Common JSON encoders: some escape slashes, some escape everything outside ASCII, some both.
fn json(text: &str) -> [String; 4] {
    let text = quoted(text);
    [text.replace('/', "\\/"), ascii(&text), ascii(&text.replace('/', "\\/")), text]
}

/// JSON encoders for use in HTML: they escape `<`, `>` and `&`, and some of them quotes and `+`, too.
fn careful_json(text: &str) -> [String; 3] {
    let angles = quoted(text).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let quotes = angles.replace("\\\"", "\\u0022").replace('\'', "\\u0027").replace('+', "\\u002b");
    [ascii(&quotes), quotes, angles]
}

/// Escapes the characters of a JSON text outside ASCII.
fn ascii(text: &str) -> String {
    let mut units = [0; 2];
    let escape = |letter: char, units: &mut [u16; 2]| letter.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}")).collect();
    text.chars().map(|letter| if letter.is_ascii() { letter.to_string() } else { escape(letter, &mut units) }).collect()
}

fn percent_encoded(text: &str) -> [String; 5] {
    let form: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    [form, percent(text, b"-._~"), percent(text, COMPONENT), percent(text, SEGMENT), percent(text, QUERY)]
}

/// Percent-encodes every byte but letters, digits and those in `plain`.
fn percent(text: &str, plain: &[u8]) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || plain.contains(&byte);
    text.bytes().map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}

fn html(text: &str) -> String {
    let angles = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    angles.replace('"', "&quot;").replace('\'', "&#39;")
}

/// Returns the base64 forms of the bytes alone, and the part of the encoding that does not depend on the surrounding text, at each of the
/// three alignments in a group of three bytes: without the characters that also encode bits of a neighbour.
fn base64(bytes: &[u8]) -> Vec<String> {
    let within = (0..3).map(|place| {
        let mut text = vec![0; place];
        text.extend_from_slice(bytes);
        let own = (text.len() * 8) / 6;
        let encoded = STANDARD_NO_PAD.encode(&text);
        // One byte before adds bits to two characters, two bytes to three.
        let mixed = if place == 0 { 0 } else { place + 1 };
        encoded.get(mixed..own).unwrap_or(&encoded).to_owned()
    });
    within.chain([STANDARD.encode(bytes), STANDARD_NO_PAD.encode(bytes)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_found_at_every_place() {
        let secret = "sk-canary?>~1234";
        let forms = spellings(secret);
        for before in ["", "x", "xy", "Bearer ", "user:"] {
            for after in ["", "z", "zz", "zzz"] {
                let text = format!("{before}{secret}{after}");
                for encoded in [STANDARD.encode(&text), STANDARD.encode(&text).replace('+', "-").replace('/', "_")] {
                    let encoded = encoded.to_ascii_lowercase();
                    assert!(forms.iter().any(|form| encoded.contains(form.as_str())), "{text}: {encoded}");
                }
            }
        }
    }

    #[test]
    fn a_plain_secret_has_few_forms() {
        // The secret, its base64 (three alignments, and whole with and without padding), its hexadecimal form and its reverse.
        assert!(spellings("sk-0123456789abcdef").len() <= 9);
        assert_eq!(spellings("abc123").len(), 1);
    }
}
