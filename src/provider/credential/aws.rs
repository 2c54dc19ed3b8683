//! AWS: requests signed with Signature Version 4, or a Bedrock API key as it is.
//!
//! A key is `ACCESS_KEY_ID:SECRET_ACCESS_KEY`, with `:SESSION_TOKEN` behind it for temporary credentials. A text without a colon is an
//! API key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningParams, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::{bearer, unusable_key};
use crate::clock::Timestamp;
use crate::net::{HeaderText, Request, parse_url};
use crate::provider::error::{Class, ProviderError};
use crate::secret::Secret;

/// The name under which Bedrock's requests are signed.
const SERVICE: &str = "bedrock";
/// The region of a server that names none, such as a stand-in on this machine.
const DEFAULT_REGION: &str = "us-east-1";
/// The headers that are signed beside the host, the date and the session token. A proxy may change the others.
const SIGNED_HEADERS: [&str; 1] = ["content-type"];

/// The parts of a key.
struct KeyPair<'a> {
    id: &'a str,
    secret: &'a str,
    session_token: Option<&'a str>,
}

impl<'a> KeyPair<'a> {
    /// Splits a key; `None` for an API key.
    fn parse(key: &'a str) -> Option<Self> {
        let (id, rest) = key.trim().split_once(':')?;
        let (secret, token) = rest.split_once(':').map_or((rest, None), |(secret, token)| (secret, Some(token)));
        Some(Self { id, secret, session_token: token.filter(|token| !token.is_empty()) })
    }
}

/// Returns the headers that authenticate a finished request.
pub(super) fn headers(key: &Secret, request: &Request, now: Timestamp) -> Result<Vec<(String, HeaderText)>, ProviderError> {
    let Some(pair) = KeyPair::parse(key.expose()) else {
        return Ok(vec![("authorization".to_owned(), bearer(key.expose().trim()).into())]);
    };
    if pair.id.is_empty() || pair.secret.is_empty() {
        return Err(unusable_key("the AWS key is incomplete; write it as `ACCESS_KEY_ID:SECRET_ACCESS_KEY[:SESSION_TOKEN]`"));
    }
    let host = parse_url(&request.url)?.host_str().unwrap_or_default().to_owned();
    sign_request(&pair, request, region(&host), signing_time(now))
}

/// The secrets inside of a key.
pub(super) fn secret_parts(key: &Secret) -> Vec<Secret> {
    let parts = KeyPair::parse(key.expose()).map(|pair| [Some(pair.secret), pair.session_token]);
    parts.into_iter().flatten().flatten().map(Secret::new).collect()
}

fn sign_request(pair: &KeyPair<'_>, request: &Request, region: &str, time: SystemTime) -> Result<Vec<(String, HeaderText)>, ProviderError> {
    let unsignable = |why: String| {
        let mut error = ProviderError::new(Class::BadRequest, format!("the request cannot be signed for AWS: {why}"));
        error.sent = false;
        error
    };
    let identity = Credentials::new(pair.id, pair.secret, pair.session_token.map(str::to_owned), None, "dispatch").into();
    let params: SigningParams<'_> = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| unsignable(error.to_string()))?
        .into();
    let named = request.headers.iter().filter(|(name, _)| SIGNED_HEADERS.iter().any(|signed| name.eq_ignore_ascii_case(signed)));
    let signed = named.filter_map(|(name, value)| match value {
        HeaderText::Plain(text) => Some((name.as_str(), text.as_str())),
        HeaderText::Secret(_) => None,
    });
    let body = request.body.as_deref().unwrap_or_default();
    let signable = SignableRequest::new(request.method.as_str(), request.url.as_str(), signed, SignableBody::Bytes(body))
        .map_err(|error| unsignable(error.to_string()))?;
    let (instructions, _) = sign(signable, &params).map_err(|error| unsignable(error.to_string()))?.into_parts();
    let headers = instructions.headers().map(|(name, value)| {
        let text = if name == "x-amz-date" { HeaderText::from(value) } else { Secret::new(value).into() };
        (name.to_owned(), text)
    });
    Ok(headers.collect())
}

fn signing_time(now: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(0))
}

/// The region in a host's name: `bedrock-runtime.REGION.amazonaws.com`, with or without more labels in front.
fn region(host: &str) -> &str {
    if !host.contains(".amazonaws.") && !host.ends_with(".api.aws") {
        return DEFAULT_REGION;
    }
    let mut labels = host.split('.').skip_while(|label| !label.starts_with("bedrock"));
    match (labels.next(), labels.next(), labels.next()) {
        (Some(_), Some(region), Some(_)) => region,
        _ => DEFAULT_REGION,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::net::Trust;

    const KEY: &str = "AKIDEXAMPLE:wJalrXUtnFEMIexample";
    const URL: &str = "https://bedrock-runtime.eu-west-1.amazonaws.com/model/amazon.nova-micro-v1%3A0/converse";
    const NOON: Timestamp = Timestamp::from_millis(1_735_041_600_000);

    fn request(url: &str, body: &str) -> Request {
        let request = Request::new(Method::POST, url, Trust::Operator).body(body.to_owned());
        request.header("content-type", "application/json").header("accept", "*/*")
    }

    fn signed(key: &str, url: &str, body: &str, now: Timestamp) -> Vec<(String, String)> {
        let headers = headers(&Secret::new(key), &request(url, body), now).unwrap();
        let exposed = headers.into_iter().map(|(name, value)| match value {
            HeaderText::Plain(text) => (name, text),
            HeaderText::Secret(secret) => (name, secret.expose().to_owned()),
        });
        exposed.collect()
    }

    fn authorization(key: &str, url: &str, body: &str, now: Timestamp) -> String {
        signed(key, url, body, now).into_iter().find(|(name, _)| name == "authorization").unwrap().1
    }

    #[test]
    fn a_signature_covers_host_path_date_and_payload() {
        let first = authorization(KEY, URL, "{}", NOON);
        assert!(first.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20241224/eu-west-1/bedrock/aws4_request, "), "{first}");
        assert!(first.contains("SignedHeaders=content-type;host;x-amz-date, Signature="), "{first}");
        assert_eq!(authorization(KEY, URL, "{}", NOON), first);
        for other in [
            authorization("AKIDEXAMPLE:another", URL, "{}", NOON),
            authorization(KEY, &URL.replace("eu-west-1", "eu-west-2"), "{}", NOON),
            authorization(KEY, &URL.replace("micro", "lite"), "{}", NOON),
            authorization(KEY, URL, "{ }", NOON),
            authorization(KEY, URL, "{}", NOON.after(Duration::from_secs(1))),
        ] {
            assert_ne!(other, first);
        }
    }

    /// The signature of a request, computed by hand from the canonical form that AWS documents.
    #[test]
    fn a_path_is_encoded_twice_in_the_canonical_request() {
        use hmac::{Hmac, KeyInit, Mac};
        use sha2::{Digest, Sha256};

        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let hash = |text: &str| hex(&Sha256::digest(text.as_bytes())[..]);
        let mac = |key: &[u8], text: &str| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.update(text.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let payload = hash("{}");
        let canonical = [
            "POST",
            "/model/amazon.nova-micro-v1%253A0/converse",
            "",
            "content-type:application/json",
            "host:bedrock-runtime.eu-west-1.amazonaws.com",
            "x-amz-date:20241224T120000Z",
            "",
            "content-type;host;x-amz-date",
            payload.as_str(),
        ];
        let digest = hash(&canonical.join("\n"));
        let to_sign = ["AWS4-HMAC-SHA256", "20241224T120000Z", "20241224/eu-west-1/bedrock/aws4_request", digest.as_str()].join("\n");
        let start = b"AWS4wJalrXUtnFEMIexample".to_vec();
        let key = ["20241224", "eu-west-1", "bedrock", "aws4_request"].iter().fold(start, |key, part| mac(&key, part));
        let expected = format!("Signature={}", hex(&mac(&key, &to_sign)));
        let actual = authorization(KEY, URL, "{}", NOON);
        assert!(actual.ends_with(&expected), "{actual} does not end with {expected}");
    }

    #[test]
    fn a_session_token_is_sent_and_an_api_key_is_not_signed() {
        let temporary = signed(&format!("{KEY}:token:with:colons"), URL, "{}", NOON);
        assert!(temporary.contains(&("x-amz-security-token".into(), "token:with:colons".into())), "{temporary:?}");
        assert_eq!(signed("bedrock-api-key", URL, "{}", NOON), [("authorization".to_owned(), "Bearer bedrock-api-key".to_owned())]);
        assert!(headers(&Secret::new("AKIDEXAMPLE:"), &request(URL, ""), NOON).is_err());
        let parts: Vec<String> = secret_parts(&Secret::new("id:secret:token")).iter().map(|part| part.expose().to_owned()).collect();
        assert_eq!(parts, ["secret", "token"]);
    }

    #[test]
    fn the_region_is_read_off_the_host() {
        for (host, expected) in [
            ("bedrock-runtime.ap-northeast-1.amazonaws.com", "ap-northeast-1"),
            ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
            ("vpce-1.bedrock-runtime.us-west-2.vpce.amazonaws.com", "us-west-2"),
            ("bedrock.gateway.example.com", "us-east-1"),
            ("127.0.0.1", "us-east-1"),
            ("localhost", "us-east-1"),
        ] {
            assert_eq!(region(host), expected);
        }
    }
}
