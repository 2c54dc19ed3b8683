//! Citations: pages that an answer rests on, as the vendors name them. Pure.
//!
//! What is not as expected is no citation, and no fault: an answer is worth more than its footnotes.

use serde_json::Value;

/// Bytes of an address, and of a title.
const LONGEST: usize = 2_048;

/// A page that an answer rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Citation {
    /// `http` or `https`.
    pub url: String,
    pub title: Option<String>,
}

impl Citation {
    /// The page of an object that names its address under one of these members.
    pub fn of(value: &Value, names: &[&str]) -> Option<Self> {
        let url = names.iter().find_map(|name| value.get(name)?.as_str())?;
        let title = value.get("title").and_then(Value::as_str).filter(|title| !title.is_empty() && title.len() <= LONGEST);
        Self::at(url, title.map(str::to_owned))
    }

    /// The page at an address.
    pub fn at(url: &str, title: Option<String>) -> Option<Self> {
        let web = url.starts_with("https://") || url.starts_with("http://");
        (web && url.len() <= LONGEST && !url.contains(char::is_control)).then(|| Self { url: url.to_owned(), title })
    }
}
