//! Pictures, files and audio: media types as vendors write them, text files as text, and a clear error for what cannot be sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{RequestTarget, unsendable};
use crate::provider::catalogue::Capability;
use crate::provider::chat::{Message, Part, Role, Source};
use crate::provider::error::ProviderError;

/// Fits every part to what the format takes.
pub(super) fn fit_media(messages: &mut [Message], target: &RequestTarget<'_>) -> Result<(), ProviderError> {
    for message in messages {
        let is_result = message.role == Role::Tool;
        for part in &mut message.content {
            fit_part(part, is_result, target)?;
        }
    }
    Ok(())
}

fn fit_part(part: &mut Part, is_result: bool, target: &RequestTarget<'_>) -> Result<(), ProviderError> {
    let (rules, origin) = (&target.rules, &target.origin);
    match part {
        Part::Text { .. } | Part::Reasoning(_) => {}
        // A tool's picture is no wish of the caller; a model that reads none is told of it.
        Part::Image { .. } if is_result && !target.can(Capability::Images) => {
            *part = Part::text("(The tool showed a picture, which this model cannot read.)");
        }
        Part::Image { source: Source::Data { mime, .. } } => {
            *mime = media_type(mime);
            if !rules.images.is_empty() && !rules.images.contains(&mime.as_str()) {
                if is_result {
                    *part = Part::text(format!("(The tool showed a picture of type `{mime}`, which this model cannot read.)"));
                    return Ok(());
                }
                return Err(unsendable(format!("`{origin}` takes no pictures of type `{mime}`; send {}", rules.images.join(", "))));
            }
        }
        Part::File { source: Source::Data { mime, data }, name } => {
            *mime = media_type(mime);
            if rules.files.is_empty() || rules.files.contains(&mime.as_str()) {
                return Ok(());
            }
            if mime.starts_with("image/") {
                let source = Source::Data { mime: mime.clone(), data: std::mem::take(data) };
                *part = Part::Image { source };
                return fit_part(part, is_result, target);
            }
            let text = is_text(mime).then(|| STANDARD.decode(data.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok())).flatten();
            if is_result && text.is_none() {
                *part = Part::text(format!("(The tool gave a file of type `{mime}`, which this model cannot read.)"));
                return Ok(());
            }
            let Some(text) = text else {
                return Err(unsendable(format!("`{origin}` takes no files of type `{mime}`; send text or {}", rules.files.join(", "))));
            };
            let name = name.as_deref().unwrap_or("file");
            *part = Part::text(format!("{name}:\n{text}"));
        }
        Part::Audio { .. } if is_result && !rules.audio => *part = Part::text("(The tool gave audio, which this model cannot hear.)"),
        Part::Audio { .. } if !rules.audio => return Err(unsendable(format!("`{origin}` takes no audio"))),
        Part::Image { .. } | Part::File { .. } | Part::Audio { .. } => {}
    }
    Ok(())
}

/// A media type without parameters, in lower case, by its registered name.
fn media_type(given: &str) -> String {
    let bare = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match bare.as_str() {
        "image/jpg" | "image/pjpeg" => "image/jpeg".to_owned(),
        "image/x-png" => "image/png".to_owned(),
        "application/x-pdf" => "application/pdf".to_owned(),
        _ => bare,
    }
}

fn is_text(media_type: &str) -> bool {
    const TEXTS: [&str; 9] = ["json", "xml", "yaml", "x-yaml", "toml", "javascript", "sql", "x-sh", "csv"];
    let subtype = media_type.strip_prefix("application/").unwrap_or_default();
    media_type.starts_with("text/") || TEXTS.contains(&subtype) || subtype.ends_with("+json") || subtype.ends_with("+xml")
}
