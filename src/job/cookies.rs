//! The cookies of one run: kept between its steps, never written to its folder.

use serde::{Deserialize, Serialize};
use url::Url;

use super::names::parse_date;
use crate::clock::Timestamp;

/// Most cookies of one run; the oldest give way.
const MAX_COOKIES: usize = 200;

/// Cookies in the order in which they were set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CookieJar(Vec<Cookie>);

/// One cookie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cookie {
    name: String,
    value: String,
    domain: String,
    host_only: bool,
    path: String,
    secure: bool,
    /// Unix time in milliseconds.
    expires_at: Option<i64>,
}

impl CookieJar {
    /// Whether there is no cookie.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in one `Set-Cookie` header of a response from `url`.
    pub fn store(&mut self, url: &Url, header: &str, now: Timestamp) {
        let Some(cookie) = parse(url, header, now) else { return };
        let same = |known: &Cookie| {
            (&known.name, &known.domain, &known.path, known.host_only) == (&cookie.name, &cookie.domain, &cookie.path, cookie.host_only)
        };
        self.0.retain(|known| !same(known));
        if !is_expired(&cookie, now) {
            if self.0.len() >= MAX_COOKIES {
                self.0.remove(0);
            }
            self.0.push(cookie);
        }
    }

    /// The `Cookie` header for a request to `url`; names of `manual` win.
    pub fn header(&self, url: &Url, manual: Option<&str>, now: Timestamp) -> Option<String> {
        let host = url.host_str()?.to_ascii_lowercase();
        let mut fitting: Vec<&Cookie> = self.0.iter().filter(|cookie| cookie.fits(&host, url, now)).collect();
        // A stable sort: of the same length, the oldest first.
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let manual: Vec<&str> = manual.unwrap_or_default().split(';').map(str::trim).filter(|pair| !pair.is_empty()).collect();
        let named = |name: &str| manual.iter().any(|pair| pair.split('=').next() == Some(name));
        let own = fitting.iter().filter(|cookie| !named(&cookie.name)).map(|cookie| format!("{}={}", cookie.name, cookie.value));
        let pairs: Vec<String> = own.chain(manual.iter().map(|pair| (*pair).to_owned())).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

impl Cookie {
    fn fits(&self, host: &str, url: &Url, now: Timestamp) -> bool {
        let in_domain = host == self.domain || (!self.host_only && host.ends_with(&format!(".{}", self.domain)));
        let path = url.path();
        let in_path =
            path == self.path || path.strip_prefix(&self.path).is_some_and(|rest| self.path.ends_with('/') || rest.starts_with('/'));
        in_domain && in_path && (!self.secure || url.scheme() == "https") && !is_expired(self, now)
    }
}

fn is_expired(cookie: &Cookie, now: Timestamp) -> bool {
    cookie.expires_at.is_some_and(|end| end <= now.as_millis())
}

fn parse(url: &Url, header: &str, now: Timestamp) -> Option<Cookie> {
    let mut parts = header.split(';').map(str::trim);
    let (name, value) = parts.next()?.split_once('=')?;
    let host = url.host_str()?.to_ascii_lowercase();
    let folder = url.path().rfind('/').filter(|end| *end > 0).and_then(|end| url.path().get(..end)).unwrap_or("/").to_owned();
    let mut cookie = Cookie {
        name: name.trim().to_owned(),
        value: value.trim().to_owned(),
        domain: host.clone(),
        host_only: true,
        path: folder,
        secure: false,
        expires_at: None,
    };
    for part in parts {
        let (attribute, value) = part.split_once('=').unwrap_or((part, ""));
        let value = value.trim();
        match attribute.trim().to_ascii_lowercase().as_str() {
            "domain" if !value.trim_start_matches('.').is_empty() => {
                let domain = value.trim_start_matches('.').to_ascii_lowercase();
                if host != domain && !host.ends_with(&format!(".{domain}")) {
                    return None;
                }
                (cookie.domain, cookie.host_only) = (domain, false);
            }
            "path" if value.starts_with('/') => value.clone_into(&mut cookie.path),
            "max-age" => {
                let seconds = value.parse::<i64>().ok();
                cookie.expires_at = seconds.map(|seconds| now.as_millis().saturating_add(seconds.saturating_mul(1_000)));
            }
            "expires" => cookie.expires_at = http_date(value).or(cookie.expires_at),
            "secure" => cookie.secure = true,
            _ => {}
        }
    }
    (!cookie.name.is_empty()).then_some(cookie)
}

/// A date as HTTP writes it.
fn http_date(text: &str) -> Option<i64> {
    let fixed = text.replace('-', " ");
    let zoned = jiff::fmt::rfc2822::parse(&fixed).ok().map(|zoned| zoned.timestamp().as_millisecond());
    zoned.or_else(|| parse_date(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_go_where_they_came_from() {
        let now = Timestamp::from_millis(1_000);
        let url = |text: &str| Url::parse(text).unwrap();
        let mut jar = CookieJar::default();
        jar.store(&url("https://api.example.com/v1/login"), "sid=1; Path=/; HttpOnly", now);
        jar.store(&url("https://api.example.com/v1/login"), "deep=2", now);
        jar.store(&url("https://api.example.com/v1/login"), "all=3; Domain=.example.com; Path=/; Secure", now);
        jar.store(&url("https://api.example.com/v1/login"), "foreign=4; Domain=other.com", now);
        jar.store(&url("https://api.example.com/v1/login"), "gone=5; Max-Age=0", now);
        let header = |text: &str, manual| jar.header(&url(text), manual, now);
        assert_eq!(header("https://api.example.com/v1/x", None).as_deref(), Some("deep=2; sid=1; all=3"));
        assert_eq!(header("http://www.example.com/", None), None);
        assert_eq!(header("https://www.example.com/", Some("all=mine")).as_deref(), Some("all=mine"));
        assert_eq!(header("http://api.example.com/v2", None).as_deref(), Some("sid=1"));
    }
}
