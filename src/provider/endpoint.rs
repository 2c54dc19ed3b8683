//! URLs from parts: names of models become path segments, never syntax.

use super::error::{Class, ProviderError};
use crate::net::parse_url;

/// `base` with further path segments, each percent-encoded.
pub(super) fn endpoint(base: &str, segments: &[&str]) -> Result<String, ProviderError> {
    let unusable = |why: String| {
        let mut error = ProviderError::new(Class::BadRequest, format!("the provider's base URL cannot be used: {why}"));
        error.sent = false;
        error
    };
    let mut url = parse_url(base).map_err(|error| unusable(error.to_string()))?;
    url.path_segments_mut().map_err(|()| unusable("it has no path".to_owned()))?.pop_if_empty().extend(segments);
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_name_cannot_leave_its_segment() {
        let url = |model: &str| endpoint("https://h/v1/", &["models", model]).unwrap();
        assert_eq!(url("gemini-2.5-flash:generateContent"), "https://h/v1/models/gemini-2.5-flash:generateContent");
        assert_eq!(url("a/../b?x#y"), "https://h/v1/models/a%2F..%2Fb%3Fx%23y");
        assert!(endpoint("not a url", &[]).is_err());
    }
}
