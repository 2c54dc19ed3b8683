//! Media types: normalisation, and guesses from file names.

/// Returns a media type without parameters, in lower case, under its registered name: `IMAGE/JPG; q=1` is `image/jpeg`.
pub fn normalise_media_type(given: &str) -> String {
    let bare = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match bare.as_str() {
        "image/jpg" | "image/pjpeg" => "image/jpeg".to_owned(),
        "image/x-png" => "image/png".to_owned(),
        "application/x-pdf" => "application/pdf".to_owned(),
        "audio/mp3" => "audio/mpeg".to_owned(),
        "audio/wave" | "audio/x-wav" | "audio/vnd.wave" => "audio/wav".to_owned(),
        _ => bare,
    }
}

/// Returns the media type for the extension of a file name or URL.
pub fn media_type_of_name(name: &str) -> Option<&'static str> {
    let path = name.split(['?', '#']).next()?;
    let ending = path.rsplit('/').next()?.rsplit_once('.')?.1.to_ascii_lowercase();
    Some(match ending.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "heic" => "image/heic",
        "pdf" => "application/pdf",
        "txt" | "log" => "text/plain",
        "md" => "text/markdown",
        "csv" => "text/csv",
        "html" | "htm" => "text/html",
        "json" => "application/json",
        "xml" => "application/xml",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "pptx" => "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "ogg" => "audio/ogg",
        "flac" => "audio/flac",
        "m4a" => "audio/mp4",
        "mp4" | "m4v" => "video/mp4",
        "mov" => "video/quicktime",
        "webm" => "video/webm",
        _ => return None,
    })
}
