//! Pictures, files and audio of content parts: where their bytes are, and of which kind they are.

use super::part::{ContentItem, problem};
use crate::error::Problem;
use crate::provider::{Part, Source, media_type_of_name, normalise_media_type};

/// What a part says that it holds. Its media type decides where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    Image,
    File,
    Audio,
}

/// A media type that tells nothing of the bytes.
const UNTYPED: &str = "application/octet-stream";

/// Reads a URL, a `data:` URL or base64. `pointer` is where it stands in its part.
pub fn read_media(given: &str, mime: Option<&str>, name: Option<&str>, kind: MediaKind, pointer: &str) -> Result<ContentItem, Problem> {
    let mime = mime.map(normalise_media_type).filter(|mime| !mime.is_empty() && !mime.contains('*'));
    let source = read_source(given.trim(), mime.as_deref(), name, pointer)?;
    let known = source.media_type().filter(|mime| *mime != UNTYPED);
    let kind = match known.map(|mime| mime.split('/').next().unwrap_or_default()) {
        Some("image") => MediaKind::Image,
        Some("audio") => MediaKind::Audio,
        Some(_) => MediaKind::File,
        None => kind,
    };
    Ok(ContentItem::Content(match kind {
        MediaKind::Image => Part::image(source),
        MediaKind::Audio => Part::Audio { source },
        MediaKind::File => Part::File { name: name.map(str::to_owned), source },
    }))
}

fn read_source(given: &str, mime: Option<&str>, name: Option<&str>, pointer: &str) -> Result<Source, Problem> {
    if given.is_empty() {
        return Err(problem(pointer, "the data is empty"));
    }
    let scheme = given.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("http" | "https" | "gs" | "s3") => Ok(Source::Url { url: given.to_owned(), mime: mime.map(str::to_owned) }),
        Some("data") => match Source::from_url(given) {
            Source::Data { mime: own, data } => {
                let mime = mime.filter(|_| own == UNTYPED).map_or(own, str::to_owned);
                base64_source(mime, data, pointer)
            }
            Source::Url { .. } => Err(problem(pointer, "the `data:` URL has no comma before its data")),
        },
        Some(_) => Err(problem(pointer, "expected a URL that begins with `https:`, `gs:`, `s3:` or `data:`, or base64")),
        None => {
            let Source::Data { data, .. } = Source::from_base64(UNTYPED, given) else { return Err(not_base64(pointer)) };
            let mime = mime.filter(|mime| *mime != UNTYPED).or_else(|| mime_of_bytes(&data)).or_else(|| media_type_of_name(name?)).or(mime);
            let unknown = "the media type is not known; name it beside the data, for example `\"mediaType\": \"image/png\"`";
            base64_source(mime.ok_or_else(|| problem(pointer, unknown))?.to_owned(), data, pointer)
        }
    }
}

/// Data in the usual alphabet of base64, padded.
fn base64_source(mime: String, data: String, pointer: &str) -> Result<Source, Problem> {
    if data.is_empty() {
        return Err(problem(pointer, "the data is empty"));
    }
    let mut data = if data.contains(['-', '_']) { data.replace('-', "+").replace('_', "/") } else { data };
    let digits = data.trim_end_matches('=');
    if digits.len() % 4 == 1 || !digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/') {
        return Err(not_base64(pointer));
    }
    while !data.len().is_multiple_of(4) {
        data.push('=');
    }
    Ok(Source::Data { mime, data })
}

fn not_base64(pointer: &str) -> Problem {
    problem(pointer, "the data is neither base64 nor a URL")
}

/// The media type that the first bytes of a file show.
fn mime_of_bytes(base64: &str) -> Option<&'static str> {
    const BEGINNINGS: [(&str, &str); 6] = [
        ("iVBORw0KGgo", "image/png"),
        ("/9j/", "image/jpeg"),
        ("R0lGOD", "image/gif"),
        ("JVBERi0", "application/pdf"),
        ("SUQz", "audio/mpeg"),
        ("T2dnUw", "audio/ogg"),
    ];
    let found = BEGINNINGS.iter().find(|(beginning, _)| base64.starts_with(beginning)).map(|(_, mime)| *mime);
    // A RIFF file says what it is in its bytes 8 to 11.
    found.or_else(|| match (base64.starts_with("UklGR"), base64.get(12..16)?) {
        (true, "RUJQ") => Some("image/webp"),
        (true, "QVZF") => Some("audio/wav"),
        _ => None,
    })
}
