//! Who sends a webhook: its signature, checked as the sender's scheme says. The schemes are data, `providers/hooks/*.toml`.
//!
//! All of them are HMAC-SHA256 over a text that is made of the delivery's id, its time and its body. A time, where there is one, must be near.
//!
//! Must not know: what a webhook is for.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::map::Entry;
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::clock::Timestamp;
use crate::offload::give_way;
use crate::secret::Secret;

const BUILT_IN: [&str; 5] = [
    include_str!("../../providers/hooks/standard.toml"),
    include_str!("../../providers/hooks/github.toml"),
    include_str!("../../providers/hooks/stripe.toml"),
    include_str!("../../providers/hooks/slack.toml"),
    include_str!("../../providers/hooks/dispatch.toml"),
];

/// How far a delivery's time may be from now.
const NEAR: Duration = Duration::from_secs(5 * 60);
/// Signatures of one delivery that are looked at: more than one while a secret is being replaced.
const MOST_SIGNATURES: usize = 10;

/// How a sender signs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    pub name: String,
    signature: Signature,
    /// What is signed: `{id}`, `{timestamp}` and `{body}` in some order.
    signed: String,
    /// The header with the delivery's id.
    id: Option<String>,
    /// Or where it stands in the body.
    body_id: Option<String>,
    /// The header with the event's name, or where that stands in the body.
    event: Option<String>,
    body_event: Option<String>,
    timestamp: Option<Time>,
    /// Behind this the secret's text is base64.
    secret_prefix: Option<String>,
    /// Where a text stands in a body that is to be said back.
    challenge: Option<String>,
    form: Option<Form>,
}

/// What form deliveries contain besides strings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    /// The member whose text is JSON.
    json: String,
    /// Whether that member is the whole delivery.
    #[serde(default)]
    is_body: bool,
}

/// A header, and what of it counts: the parts with a prefix, between separators.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    header: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    separator: String,
    #[serde(default)]
    encoding: Encoding,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Time {
    header: String,
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    separator: String,
    #[serde(default)]
    unit: Unit,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Unit {
    #[default]
    S,
    Ms,
}

/// A delivery that was believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The sender's id of it.
    pub id: Option<String>,
    pub event: Option<String>,
    /// The body: JSON, the members of a form, or text.
    pub body: Value,
    /// A text that the sender wants to hear.
    pub challenge: Option<String>,
}

/// Why a delivery is not trusted, or cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("the header that its scheme needs is not there, or cannot be read")]
    Malformed,
    #[error("its signature is not of the secret that was agreed upon")]
    Signature,
    #[error("its time is more than five minutes from now")]
    Time,
    /// The signature is valid, but the body is not.
    #[error("the body of the delivery does not match its content type: {0}")]
    Body(String),
}

/// The scheme of this name.
pub fn scheme(name: &str) -> Option<&'static Scheme> {
    schemes().iter().find(|scheme| scheme.name == name)
}

/// Every scheme.
pub fn schemes() -> &'static [Scheme] {
    static SCHEMES: LazyLock<Vec<Scheme>> = LazyLock::new(|| BUILT_IN.iter().filter_map(|text| toml::from_str(text).ok()).collect());
    &SCHEMES
}

/// Reads a body that nothing vouches for but the address that it came to.
pub fn unsigned(content_type: Option<&str>, body: &[u8]) -> Result<Delivery, Doubt> {
    Ok(Delivery { id: None, event: None, body: read_body(content_type, body, None)?, challenge: None })
}

/// Decodes a body by its content type. Without a content type it is JSON if it can be parsed as JSON.
fn read_body(content_type: Option<&str>, body: &[u8], form: Option<&Form>) -> Result<Value, Doubt> {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/x-www-form-urlencoded" {
        return read_form(body, form);
    }
    // A byte order mark is not part of the text (RFC 8259, section 8.1).
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let is_json = essence == "application/json" || essence == "text/json" || essence.ends_with("+json");
    match give_way(text.len(), || serde_json::from_slice(text)) {
        Ok(value) => Ok(value),
        Err(_) if is_json && text.trim_ascii().is_empty() => Ok(Value::Null),
        Err(error) if is_json => Err(Doubt::Body(format!("it is not valid JSON: {error}"))),
        Err(_) => Ok(Value::String(String::from_utf8_lossy(body).into_owned())),
    }
}

/// Decodes a form into an object of strings; a repeated name has a list of them.
fn read_form(body: &[u8], form: Option<&Form>) -> Result<Value, Doubt> {
    let mut members = Map::new();
    for (name, text) in url::form_urlencoded::parse(body) {
        let text = Value::String(text.into_owned());
        match members.entry(name.into_owned()) {
            Entry::Vacant(place) => {
                place.insert(text);
            }
            Entry::Occupied(mut place) => match place.get_mut() {
                Value::Array(texts) => texts.push(text),
                first => *first = Value::Array(vec![first.take(), text]),
            },
        }
    }
    if let Some(Form { json, is_body }) = form
        && let Some(Value::String(text)) = members.get(json)
    {
        let value: Value =
            serde_json::from_str(text).map_err(|error| Doubt::Body(format!("its member `{json}` is not valid JSON: {error}")))?;
        if *is_body {
            return Ok(value);
        }
        members.insert(json.clone(), value);
    }
    Ok(Value::Object(members))
}

/// The parts of a header that have a prefix.
fn parts<'h>(header: &'h str, prefix: &str, separator: &str) -> impl Iterator<Item = &'h str> {
    let split: Vec<&str> = if separator.is_empty() { vec![header] } else { header.split(separator).collect() };
    let prefix = prefix.to_owned();
    split.into_iter().filter_map(move |part| part.trim().strip_prefix(prefix.as_str()).map(str::trim))
}

impl Scheme {
    /// Believes a delivery, or says why not. `header` gives a header's text.
    pub fn read<'h>(
        &self,
        secret: &Secret,
        header: impl Fn(&str) -> Option<&'h str>,
        body: &[u8],
        now: Timestamp,
    ) -> Result<Delivery, Doubt> {
        let timestamp = match &self.timestamp {
            None => "",
            Some(time) => {
                let text =
                    header(&time.header).and_then(|text| parts(text, &time.prefix, &time.separator).next()).ok_or(Doubt::Malformed)?;
                let number: i64 = text.parse().map_err(|_| Doubt::Malformed)?;
                let millis = if matches!(time.unit, Unit::S) { number.checked_mul(1_000).ok_or(Doubt::Malformed)? } else { number };
                let told = Timestamp::from_millis(millis);
                if told.since(now).max(now.since(told)) > NEAR {
                    return Err(Doubt::Time);
                }
                text
            }
        };
        let id = match &self.id {
            Some(name) => Some(header(name).filter(|id| !id.is_empty()).ok_or(Doubt::Malformed)?.to_owned()),
            None => None,
        };
        let signature = header(&self.signature.header).ok_or(Doubt::Malformed)?;
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key(secret)?).map_err(|_| Doubt::Signature)?;
        let (before, after) = self.signed.split_once("{body}").ok_or(Doubt::Malformed)?;
        let fill = |text: &str| text.replace("{id}", id.as_deref().unwrap_or_default()).replace("{timestamp}", timestamp);
        mac.update(fill(before).as_bytes());
        mac.update(body);
        mac.update(fill(after).as_bytes());
        let good = parts(signature, &self.signature.prefix, &self.signature.separator).take(MOST_SIGNATURES).any(|given| {
            let bytes = match self.signature.encoding {
                Encoding::Hex => unhex(given),
                Encoding::Base64 => STANDARD.decode(given).ok(),
            };
            bytes.is_some_and(|bytes| mac.clone().verify_slice(&bytes).is_ok())
        });
        if !good {
            return Err(Doubt::Signature);
        }
        let body = read_body(header("content-type"), body, self.form.as_ref())?;
        let at = |pointer: &Option<String>| {
            pointer.as_ref().and_then(|pointer| body.pointer(pointer)).and_then(Value::as_str).map(str::to_owned)
        };
        let event = self.event.as_ref().and_then(|name| header(name)).map(str::to_owned).or_else(|| at(&self.body_event));
        Ok(Delivery { id: id.or_else(|| at(&self.body_id)), event, challenge: at(&self.challenge), body })
    }

    /// The bytes of a secret's text.
    fn key(&self, secret: &Secret) -> Result<Vec<u8>, Doubt> {
        match self.secret_prefix.as_ref().and_then(|prefix| secret.expose().strip_prefix(prefix.as_str())) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| Doubt::Signature),
            None => Ok(secret.expose().as_bytes().to_vec()),
        }
    }

    /// Whether a text can be this scheme's secret.
    pub fn takes(&self, secret: &Secret) -> bool {
        self.key(secret).is_ok_and(|key| !key.is_empty())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    bytes.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(name: &str, secret: &str, headers: &[(&str, &str)], body: &str, now: i64) -> Result<Delivery, Doubt> {
        let header = |wanted: &str| headers.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        scheme(name).unwrap().read(&Secret::new(secret), header, body.as_bytes(), Timestamp::from_millis(now * 1_000))
    }

    #[test]
    fn every_file_is_a_scheme() {
        let names: Vec<&str> = schemes().iter().map(|scheme| scheme.name.as_str()).collect();
        assert_eq!(names, ["standard", "github", "stripe", "slack", "dispatch"]);
    }

    /// The senders' own examples, from their documentation.
    #[test]
    fn the_senders_own_examples_are_believed() {
        let github = [
            ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
            ("x-github-delivery", "72d3162e"),
            ("x-github-event", "push"),
        ];
        let delivery = read("github", "It's a Secret to Everybody", &github, "Hello, World!", 0).unwrap();
        assert_eq!(
            (delivery.id.as_deref(), delivery.event.as_deref(), delivery.body),
            (Some("72d3162e"), Some("push"), "Hello, World!".into())
        );
        let slack = [
            ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
            ("x-slack-request-timestamp", "1531420618"),
        ];
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        assert!(read("slack", "8f742231b10e8888abcd99yyyzzz85a5", &slack, body, 1_531_420_618).is_ok());
        assert_eq!(read("slack", "8f742231b10e8888abcd99yyyzzz85a5", &slack, body, 1_531_421_000), Err(Doubt::Time));
        let standard = [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,bm9ldHUjKzFob2VudXRob2VodWUzMjRvdWVvdW9ldQo= v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ];
        let delivery =
            read("standard", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &standard, "{\"test\": 2432232314}", 1_614_265_330).unwrap();
        assert_eq!((delivery.id.as_deref(), &delivery.body["test"]), (Some("msg_p5jXN8AQM9LWM0D4loKWxJek"), &2_432_232_314_u64.into()));
    }

    #[test]
    fn bodies_are_read_as_their_content_types_say() {
        let read = |kind: Option<&str>, body: &str, scheme: &str| {
            let form = schemes().iter().find(|known| known.name == scheme).and_then(|known| known.form.as_ref());
            read_body(kind, body.as_bytes(), form).ok()
        };
        let form = Some("application/x-www-form-urlencoded; charset=utf-8");
        let issue = "payload=%7B%22action%22%3A%22opened%22%2C%22n%22%3A7%7D";
        assert_eq!(read(form, issue, "github"), Some(json!({ "action": "opened", "n": 7 })));
        assert_eq!(read(form, issue, "slack"), Some(json!({ "payload": { "action": "opened", "n": 7 } })));
        assert_eq!(read(form, issue, "none"), Some(json!({ "payload": r#"{"action":"opened","n":7}"# })));
        assert_eq!(read(form, "a=1&b=x+y&a=2&a=3&c", "slack"), Some(json!({ "a": ["1", "2", "3"], "b": "x y", "c": "" })));
        assert_eq!(read(form, "payload=no", "github"), None);
        assert_eq!(read(form, "other=1", "github"), Some(json!({ "other": "1" })));
        for kind in [Some("application/json"), Some("Application/CloudEvents+JSON; charset=utf-8"), None, Some("text/plain")] {
            assert_eq!(read(kind, "\u{feff}{\"a\":1}", "none"), Some(json!({ "a": 1 })), "{kind:?}");
        }
        assert_eq!(read(Some("application/json"), " \r\n", "none"), Some(Value::Null));
        assert_eq!(read(Some("application/json"), "{\"a\":", "none"), None);
        assert_eq!(read(Some("text/plain"), "{\"a\":", "none"), Some(json!("{\"a\":")));
        assert_eq!(read(None, "hello", "none"), Some(json!("hello")));
    }

    fn signed(secret: &str, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_was_changed_or_is_late_is_not_believed() {
        let body = r#"{"id":"evt_1","type":"charge.succeeded"}"#;
        let header = format!("t=1000,v1={},v1={}", "00".repeat(32), signed("s", &format!("1000.{body}")));
        let stripe = |header: &str, body: &str, now| read("stripe", "s", &[("stripe-signature", header)], body, now);
        let delivery = stripe(&header, body, 1_200).unwrap();
        assert_eq!((delivery.id.as_deref(), delivery.event.as_deref()), (Some("evt_1"), Some("charge.succeeded")));
        assert_eq!(stripe(&header, &body.replace("evt_1", "evt_2"), 1_200), Err(Doubt::Signature));
        assert_eq!(stripe(&header.replace("t=1000", "t=1001"), body, 1_200), Err(Doubt::Signature));
        assert_eq!(stripe(&header, body, 1_301), Err(Doubt::Time));
        assert_eq!(stripe(&header, body, 699), Err(Doubt::Time));
        for wrong in ["", "t=,v1=", "t=x", "v1=00", "t=1000", "t=1000,v1=zz", "t=9223372036854775807,v1=00"] {
            assert!(stripe(wrong, body, 1_200).is_err(), "{wrong}");
        }
        let many = format!("t=1000{},v1={}", ",v1=00".repeat(20), signed("s", &format!("1000.{body}")));
        assert_eq!(stripe(&many, body, 1_000), Err(Doubt::Signature), "only so many are looked at");
        let own = [
            ("x-dispatch-signature", signed("s", body)),
            ("x-dispatch-timestamp", "1000000".to_owned()),
            ("x-dispatch-delivery", "d".to_owned()),
        ];
        let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert!(read("dispatch", "s", &own, body, 1_000).is_ok());
        assert_eq!(read("dispatch", "other", &own, body, 1_000), Err(Doubt::Signature));
        assert!(!scheme("standard").unwrap().takes(&Secret::new("whsec_!!")) && scheme("standard").unwrap().takes(&Secret::new("plain")));
    }
}
