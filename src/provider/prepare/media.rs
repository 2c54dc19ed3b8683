//! Pictures, files and audio: media types as vendors write them, text files as text, and a clear error for what cannot be sent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Adjustment, RequestTarget, unsendable};
use crate::provider::catalogue::Capability;
use crate::provider::chat::{Message, Part, Role, Source};
use crate::provider::error::ProviderError;
use crate::provider::media_type::normalise_media_type;

/// Fits every part to what the format takes.
pub(super) fn fit_media(
    messages: &mut [Message],
    target: &RequestTarget<'_>,
    adjustments: &mut Vec<Adjustment>,
) -> Result<(), ProviderError> {
    if !target.rules.image_detail && forget_detail(messages) {
        adjustments.push(Adjustment::omitted("detail", "the format does not support this setting for pictures"));
    }
    for message in messages {
        let is_result = message.role == Role::Tool;
        for part in &mut message.content {
            fit_part(part, is_result, target)?;
        }
    }
    Ok(())
}

/// Removes `detail` from pictures; returns whether any picture had it.
fn forget_detail(messages: &mut [Message]) -> bool {
    let parts = messages.iter_mut().flat_map(|message| &mut message.content);
    let details = parts.filter_map(|part| match part {
        Part::Image { detail, .. } => detail.take(),
        _ => None,
    });
    details.count() > 0
}

fn fit_part(part: &mut Part, is_result: bool, target: &RequestTarget<'_>) -> Result<(), ProviderError> {
    let (rules, origin) = (&target.rules, &target.origin);
    if let Part::Image { source, .. } | Part::File { source, .. } | Part::Audio { source } = &*part {
        check_address(source, target)?;
        if is_video(source) && !rules.video && !target.quirks.video_url {
            if !is_result {
                return Err(unsendable(format!("`{origin}` does not support videos; send pictures of it, or text")));
            }
            *part = Part::text("(The tool returned a video, which this model does not support.)");
        }
    }
    match part {
        Part::Text { .. } | Part::Reasoning(_) => {}
        // A tool's picture is no wish of the caller; a model that reads none is told of it.
        Part::Image { .. } if is_result && !target.can(Capability::Images) => {
            *part = Part::text("(The tool showed a picture, which this model cannot read.)");
        }
        Part::Image { source: Source::Data { mime, .. }, .. } => {
            *mime = normalise_media_type(mime);
            if !rules.images.is_empty() && !rules.images.contains(&mime.as_str()) {
                if is_result {
                    *part = Part::text(format!("(The tool showed a picture of type `{mime}`, which this model cannot read.)"));
                    return Ok(());
                }
                return Err(unsendable(format!("`{origin}` takes no pictures of type `{mime}`; send {}", rules.images.join(", "))));
            }
        }
        Part::File { source: Source::Data { mime, data }, name } => {
            *mime = normalise_media_type(mime);
            if rules.files.is_empty() || rules.files.contains(&mime.as_str()) || mime.starts_with("video/") {
                return Ok(());
            }
            if mime.starts_with("image/") {
                let source = Source::Data { mime: mime.clone(), data: std::mem::take(data) };
                *part = Part::image(source);
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

/// Returns whether the server can fetch the source's URL.
fn check_address(source: &Source, target: &RequestTarget<'_>) -> Result<(), ProviderError> {
    let Source::Url { url, .. } = source else { return Ok(()) };
    let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
    let (schemes, origin) = (target.rules.url_schemes, &target.origin);
    if schemes.is_empty() || schemes.contains(&scheme.as_str()) {
        return Ok(());
    }
    let wanted: Vec<String> = schemes.iter().map(|scheme| format!("`{scheme}:`")).collect();
    Err(unsendable(format!("`{origin}` does not fetch `{scheme}:` URLs; send the data itself, or a URL of {}", wanted.join(", "))))
}

fn is_video(source: &Source) -> bool {
    source.media_type().is_some_and(|mime| mime.starts_with("video/"))
}

fn is_text(media_type: &str) -> bool {
    const TEXTS: [&str; 9] = ["json", "xml", "yaml", "x-yaml", "toml", "javascript", "sql", "x-sh", "csv"];
    let subtype = media_type.strip_prefix("application/").unwrap_or_default();
    media_type.starts_with("text/") || TEXTS.contains(&subtype) || subtype.ends_with("+json") || subtype.ends_with("+xml")
}
