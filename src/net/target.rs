//! From text to a URL that can be judged. Parsed once: what was judged is what is connected to.

use url::{Host, Url};

use super::error::{Blocked, Error, ErrorKind};
use super::judge::judge;
use super::policy::Policy;

/// Names of metadata services, refused before they are resolved: the name is reason enough.
const METADATA_NAMES: [&str; 6] =
    ["metadata.google.internal", "metadata.goog", "metadata", "instance-data", "instance-data.ec2.internal", "metadata.azure.internal"];

/// Parses an outbound URL strictly.
///
/// `http` and `https` only, no user name or password, no port 0, and none of the characters that parsers read
/// differently (controls, spaces, backslashes).
pub fn parse_url(text: &str) -> Result<Url, Error> {
    let invalid = |why: &'static str| Error::new(ErrorKind::InvalidUrl { why }, "");
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err(invalid("it contains spaces, control characters or backslashes"));
    }
    let url = Url::parse(text).map_err(|_| invalid("it is not an absolute URL"))?;
    check_shape(&url)?;
    Ok(url)
}

/// The rules for every URL, however it was made (a redirect's is joined, not written).
pub(super) fn check_shape(url: &Url) -> Result<(), Error> {
    let fail = |kind| Error::new(kind, &origin(url));
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fail(ErrorKind::Blocked(Blocked::Scheme)));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fail(ErrorKind::InvalidUrl { why: "it carries a user name or password" }));
    }
    if url.host().is_none() {
        return Err(fail(ErrorKind::InvalidUrl { why: "it has no host" }));
    }
    if url.port_or_known_default() == Some(0) {
        return Err(fail(ErrorKind::InvalidUrl { why: "port 0 cannot be connected to" }));
    }
    Ok(())
}

/// Judges what can be judged without resolving: literal addresses and names that speak for themselves.
pub fn judge_host(url: &Url, policy: &Policy) -> Result<(), Error> {
    let port = url.port_or_known_default().unwrap_or(0);
    let verdict = match url.host() {
        Some(Host::Ipv4(address)) => judge(address.into(), port, policy).map_err(Blocked::Address),
        Some(Host::Ipv6(address)) => judge(address.into(), port, policy).map_err(Blocked::Address),
        Some(Host::Domain(name)) => judge_name(name),
        None => Err(Blocked::Scheme),
    };
    verdict.map_err(|blocked| Error::new(ErrorKind::Blocked(blocked), &origin(url)))
}

fn judge_name(name: &str) -> Result<(), Blocked> {
    let name = name.trim_end_matches('.');
    if METADATA_NAMES.iter().any(|metadata| name.eq_ignore_ascii_case(metadata)) {
        return Err(Blocked::Name);
    }
    Ok(())
}

/// Whether the host is one of `hosts`: itself, or below a `*.` entry.
pub(super) fn check_host(url: &Url, hosts: &[String]) -> Result<(), Error> {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    let is_named = |entry: &String| match entry.strip_prefix("*.") {
        Some(parent) => host.strip_suffix(&parent.to_ascii_lowercase()).is_some_and(|below| below.len() > 1 && below.ends_with('.')),
        None => host.eq_ignore_ascii_case(entry),
    };
    if hosts.iter().any(is_named) { Ok(()) } else { Err(Error::new(ErrorKind::Blocked(Blocked::Host), &origin(url))) }
}

/// Scheme, host and port: all of a URL that may be shown.
pub(super) fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_what_is_below_and_not_what_ends_alike() {
        let allowed = |host: &str| check_host(&parse_url(&format!("https://{host}/")).unwrap(), &["*.Example.com".into()]).is_ok();
        assert!(allowed("api.example.com") && allowed("a.b.example.com") && allowed("api.example.com."));
        assert!(!allowed("example.com") && !allowed("evilexample.com") && !allowed("example.com.evil.org"));
    }
}
