//! Removes known secrets from texts and JSON values on their way out.

use std::fmt;
use std::num::NonZero;
use std::sync::{Arc, LazyLock, OnceLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::matcher::{Matcher, Numbers};
use super::{MIN_REDACTED, REDACTED, Secret};
use crate::fair::{FairSemaphore, Party};
use crate::offload::{LARGE, give_way};

/// Large texts of one party that are searched at a time, at most. Each keeps a core busy.
const MAX_TURNS: usize = 4;

/// Turns at the threads on which large texts are searched; half of the cores are left to everything else.
static TURNS: LazyLock<FairSemaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    FairSemaphore::new((cores / 2).clamp(1, MAX_TURNS), usize::MAX)
});

/// Removes a set of secrets from texts and JSON values, in every form that `spellings` lists. Cheap to clone: clones share the prepared search.
#[derive(Clone, Default)]
pub struct Redactor {
    known: Option<Arc<Known>>,
    /// Whose turns a large text takes.
    party: Party,
}

struct Known {
    secrets: Vec<Secret>,
    /// Built for the first text. Most redactors of single calls never see one.
    matcher: OnceLock<Matcher>,
}

impl Known {
    fn matcher(&self) -> &Matcher {
        self.matcher.get_or_init(|| Matcher::new(&self.secrets))
    }
}

impl Redactor {
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut secrets: Vec<Secret> = secrets.into_iter().filter(|secret| secret.expose().len() >= MIN_REDACTED).collect();
        secrets.sort_by(|one, other| one.expose().cmp(other.expose()));
        secrets.dedup_by(|one, other| one.expose() == other.expose());
        let known = Known { secrets, matcher: OnceLock::new() };
        Self { known: (!known.secrets.is_empty()).then(|| Arc::new(known)), party: Party::NOBODY }
    }

    /// The same redactor, in the turns of a party.
    #[must_use]
    pub fn on_behalf_of(self, party: Party) -> Self {
        Self { party, ..self }
    }

    pub const fn is_empty(&self) -> bool {
        self.known.is_none()
    }

    /// Returns a redactor of these secrets and the given ones.
    pub fn with(&self, more: impl IntoIterator<Item = Secret>) -> Self {
        Self::new(self.secrets().iter().cloned().chain(more)).on_behalf_of(self.party)
    }

    /// Returns `text` without the secrets. JSON stays valid JSON: strings are redacted inside, and a number is replaced only if it is a secret as a whole.
    pub fn text(&self, text: &str) -> String {
        let clean = self.known.as_ref().and_then(|known| give_way(text.len(), || known.matcher().text(text)));
        clean.unwrap_or_else(|| text.to_owned())
    }

    /// Like [`Redactor::text`], on another thread if the text is large.
    pub async fn redact_text(&self, text: String) -> String {
        match &self.known {
            None => text,
            Some(_) if text.len() <= LARGE => self.text(&text),
            Some(known) => {
                let known = known.clone();
                aside(self.party, move || known.matcher().text(&text).unwrap_or(text)).await.unwrap_or_else(|| REDACTED.to_owned())
            }
        }
    }

    /// Removes the secrets from data: from every string, keys included; a number that is a secret as a whole is replaced by the marker.
    pub fn value(&self, value: &mut Value) {
        self.clean(value, Numbers::Replace);
    }

    /// Like [`Redactor::value`], on another thread if the value is large.
    pub async fn redact_value(&self, mut value: Value) -> Value {
        let Some(known) = &self.known else { return value };
        if size(&value) <= LARGE {
            self.value(&mut value);
            return value;
        }
        let known = known.clone();
        let clean = move || {
            known.matcher().value(&mut value, Numbers::Replace);
            value
        };
        aside(self.party, clean).await.unwrap_or_else(|| Value::String(REDACTED.to_owned()))
    }

    /// Removes the secrets from every string of a value that will be deserialized into a type of our own. Its numbers stay, because the type may require them.
    pub fn strings(&self, value: &mut Value) {
        self.clean(value, Numbers::Keep);
    }

    /// Returns the value without the secrets in its strings. A string that the type requires as it is (a tag, a time, an id) stays.
    pub fn typed<T: Serialize + DeserializeOwned>(&self, typed: T) -> T {
        if self.is_empty() {
            return typed;
        }
        let Ok(mut value) = serde_json::to_value(&typed) else { return typed };
        if !self.clean(&mut value, Numbers::Keep) {
            return typed;
        }
        serde_json::from_value(value).unwrap_or_else(|_| self.typed_by_members(typed))
    }

    /// Like [`Redactor::typed`], on another thread if the value is large.
    pub async fn redact_typed<T: Serialize + DeserializeOwned>(&self, typed: T) -> T {
        let Some(known) = &self.known else { return typed };
        let Ok(mut value) = serde_json::to_value(&typed) else { return typed };
        if size(&value) <= LARGE {
            return self.typed(typed);
        }
        let known = known.clone();
        let clean = move || known.matcher().value(&mut value, Numbers::Keep).then_some(value);
        match aside(self.party, clean).await {
            Some(None) => typed,
            Some(Some(value)) => serde_json::from_value(value).unwrap_or_else(|_| self.typed_by_members(typed)),
            None => self.typed(typed),
        }
    }

    /// Redacts one member after the other; if the type rejects a redacted member, tries the values below it.
    fn typed_by_members<T: Serialize + DeserializeOwned>(&self, typed: T) -> T {
        let Ok(mut whole) = serde_json::to_value(&typed) else { return typed };
        self.redact_members(&mut whole, "", &|value| serde_json::from_value::<T>(value.clone()).is_ok());
        serde_json::from_value(whole).unwrap_or(typed)
    }

    fn redact_members(&self, whole: &mut Value, place: &str, fits: &dyn Fn(&Value) -> bool) {
        for name in whole.pointer(place).map(member_names).unwrap_or_default() {
            let place = format!("{place}/{name}");
            let Some(member) = whole.pointer_mut(&place) else { continue };
            let before = member.clone();
            if !self.clean(member, Numbers::Keep) || fits(whole) {
                continue;
            }
            if let Some(member) = whole.pointer_mut(&place) {
                *member = before;
            }
            self.redact_members(whole, &place, fits);
        }
    }

    fn clean(&self, value: &mut Value, numbers: Numbers) -> bool {
        self.known.as_ref().is_some_and(|known| give_way(size(value), || known.matcher().value(value, numbers)))
    }

    fn secrets(&self) -> &[Secret] {
        match &self.known {
            Some(known) => &known.secrets,
            None => &[],
        }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({})", self.secrets().len())
    }
}

/// Returns the names of a value's members as JSON pointer tokens.
fn member_names(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map.keys().map(|name| name.replace('~', "~0").replace('/', "~1")).collect(),
        Value::Array(items) => (0..items.len()).map(|index| index.to_string()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// Estimates the size of a value's text in bytes.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.iter().map(|(name, value)| name.len() + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 1,
    }
}

/// Does work on a thread of its own, in the party's turn; `None` when it could not be done.
async fn aside<T: Send + 'static>(party: Party, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let turn = TURNS.acquire(party).await.ok()?;
    let work = move || {
        // Held to the end, also when the caller has dropped its future.
        let _turn = turn;
        work()
    };
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    fn redactor(secrets: &[&str]) -> Redactor {
        Redactor::new(secrets.iter().map(|secret| Secret::new(*secret)))
    }

    #[test]
    fn a_host_made_of_a_secret_is_found_too() {
        let redactor = redactor(&["SK-Canary-1"]);
        assert_eq!(redactor.text("http://sk-canary-1.example.com and SK-Canary-1"), "http://[redacted].example.com and [redacted]");
        let mut value = json!({ "sk-canary-1": "sk-canary-1" });
        redactor.value(&mut value);
        assert_eq!(value, json!({ REDACTED: REDACTED }));
    }

    #[test]
    fn a_secret_is_found_however_it_is_quoted() {
        let secret = "-----BEGIN \"KEY\"-----\nMIIabc/def\u{fc}ber+\\9<'&>";
        let redactor = redactor(&[secret]);
        let json = |text: &str| Value::from(text).to_string();
        let (once, twice) = (json(secret), json(&json(secret)));
        let foreign = once.replace('/', "\\/").replace('\u{fc}', "\\u00FC");
        let careful = once.replace('<', "\\u003C").replace('>', "\\u003E").replace('&', "\\u0026");
        let html = "-----BEGIN &quot;KEY&quot;-----\nMIIabc/def\u{fc}ber+\\9&lt;&#39;&amp;&gt;".to_owned();
        let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let encoded = form.replace('+', "%20");
        for text in [secret, &once, &twice, &foreign, &json(&foreign), &careful, &html, &form, &form.to_lowercase(), &encoded] {
            let shown = redactor.text(&format!("it said {text}."));
            assert!(shown.contains(REDACTED) && !shown.to_lowercase().contains("mii") && !shown.contains("ber"), "{text}: {shown}");
        }
    }

    #[test]
    fn a_secret_is_found_however_it_is_encoded() {
        use base64::Engine as _;
        use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
        let secret = "sk-Canary?>~1234";
        let redactor = redactor(&[secret]);
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let encoded = [
            STANDARD.encode(secret),
            URL_SAFE_NO_PAD.encode(secret),
            hex.to_uppercase(),
            hex,
            secret.to_uppercase(),
            secret.chars().rev().collect(),
        ];
        for text in encoded {
            assert_eq!(redactor.text(&format!("<{text}>")), "<[redacted]>", "{text}");
        }
        for before in ["Bearer ", "u:", "x"] {
            let text = STANDARD.encode(format!("{before}{secret}"));
            let shown = redactor.text(&text);
            assert!(shown.contains(REDACTED) && shown.len() <= REDACTED.len() + before.len() * 2 + 4, "{text}: {shown}");
        }
    }

    #[test]
    fn a_secret_is_found_where_every_character_is_encoded() {
        let secret = "sk-Canary \"?>~\u{fc}1234";
        let redactor = redactor(&[secret]);
        let each = |write: &dyn Fn(char) -> String| secret.chars().map(write).collect::<String>();
        let texts = [
            secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>(),
            each(&|letter| format!("&#{};", u32::from(letter))),
            each(&|letter| format!("&#x{:x};", u32::from(letter))),
            each(&|letter| format!("&#X{:05X};", u32::from(letter))),
            secret.replace('"', "&#34;").replace('>', "&gt;"),
            secret.replace('"', "&#x22;"),
        ];
        for text in texts {
            assert_eq!(redactor.text(&format!("it's 5% & <{text}> & more")), "it's 5% & <[redacted]> & more", "{text}");
            let mut value = json!({ "said": format!("a {text}"), "rest": ["5%", "R&D", 7] });
            redactor.value(&mut value);
            assert_eq!(value, json!({ "said": "a [redacted]", "rest": ["5%", "R&D", 7] }));
        }
    }

    #[test]
    fn base64_is_found_in_lines() {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let secret = "sk-Canary?>~1234".repeat(3);
        let redactor = redactor(&[&secret]);
        let encoded = STANDARD.encode(format!("Authorization: Bearer {secret} and more"));
        for (width, line_break) in [(1, "\n"), (7, "\r\n"), (20, "\n    "), (64, "\\n"), (76, "\\r\\n")] {
            let lines: Vec<&str> = encoded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let text = format!("first line\n{}\nlast line\n", lines.join(line_break));
            let shown = redactor.text(&text);
            assert!(shown.starts_with("first line\n") && shown.ends_with("\nlast line\n") && shown.contains(REDACTED), "{shown}");
            let left: String = shown.split(REDACTED).flat_map(str::chars).filter(char::is_ascii_alphanumeric).collect();
            let whole: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
            assert!(left.len() + secret.len() < whole.len(), "{shown}");
        }
        // The parts of other forms are words of their own.
        let plain = secret.replace("1234", "\n1234");
        assert_eq!(redactor.text(&plain), plain);
    }

    #[test]
    fn redaction_reaches_keys_and_nested_values() {
        let redactor = redactor(&["sk-canary", "sk-canary-long"]);
        let mut value = json!({ "a sk-canary b": [{ "x": "Bearer sk-canary-long" }], "n": 1 });
        redactor.value(&mut value);
        assert!(!value.to_string().contains("canary"), "{value}");
    }

    #[test]
    fn a_number_is_replaced_as_a_whole_or_not_at_all() {
        let redactor = redactor(&["4812345", "+491701234567"]);
        let answer =
            json!({ "account": 4_812_345, "limit": 48_123_459, "phone": 491_701_234_567_u64, "text": "no 4812345", "status": "open" });
        let wanted = json!({ "account": REDACTED, "limit": 48_123_459, "phone": REDACTED, "text": "no [redacted]", "status": "open" });
        let mut value = answer.clone();
        redactor.value(&mut value);
        assert_eq!(value, wanted);
        assert_eq!(serde_json::from_str::<Value>(&redactor.text(&answer.to_string())).unwrap(), wanted, "a JSON text stays one");
        let mut quoted = json!({ "body": answer.to_string() });
        redactor.strings(&mut quoted);
        assert_eq!(serde_json::from_str::<Value>(quoted["body"].as_str().unwrap()).unwrap(), wanted);
        assert_eq!(redactor.text("{\"limit\": 48123459}"), "{\"limit\": 48123459}");
    }

    #[test]
    fn a_secret_that_is_an_object_is_found_in_any_layout() {
        let redactor = redactor(&["{ \"type\": \"service_account\", \"private_key\": \"abc\" }"]);
        let mut value = json!({ "got": { "private_key": "abc", "type": "service_account" } });
        redactor.value(&mut value);
        assert_eq!(value, json!({ "got": REDACTED }));
        let layout = "{\n  \"got\": {\n    \"type\": \"service_account\",\n    \"private_key\": \"abc\"\n  }\n}";
        assert_eq!(redactor.text(layout), "{\"got\":\"[redacted]\"}");
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum State {
        Completed,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Row {
        state: State,
        number: u64,
        text: String,
        more: Vec<String>,
    }

    fn row(text: &str) -> Row {
        Row { state: State::Completed, number: 300_000, text: text.into(), more: vec![text.into()] }
    }

    #[test]
    fn a_type_keeps_what_it_needs_and_nothing_else() {
        let redactor = redactor(&["completed", "300000", "sk-canary"]);
        assert_eq!(redactor.typed(row("it completed: sk-canary 300000")), row("it [redacted]: [redacted] [redacted]"));
    }

    #[tokio::test]
    async fn large_texts_are_redacted_alike() {
        let redactor = redactor(&["sk-canary"]);
        let (text, clean) = ("a sk-canary b ".repeat(LARGE / 8), "a [redacted] b ".repeat(LARGE / 8));
        assert_eq!(redactor.redact_text(text.clone()).await, clean);
        assert_eq!(redactor.redact_value(json!({ "x": text.clone() })).await, json!({ "x": clean }));
        assert_eq!(redactor.redact_typed(row(&text)).await, row(&clean));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn large_texts_are_redacted_on_a_shared_runtime() {
        let redactor = redactor(&["sk-canary"]);
        let text = "a sk-canary b ".repeat(LARGE / 8);
        let work = tokio::spawn(async move { redactor.text(&text).len() });
        assert_eq!(work.await.unwrap(), "a [redacted] b ".len() * (LARGE / 8));
    }
}
