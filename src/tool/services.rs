//! Services that steps use by kind: mail, texts, web search, code. Which there are and how they are asked is data, `providers/services/*.toml`; an
//! operator's folder may replace them and add others.
//!
//! A service's call is an HTTP call as data whose templates see what the step wants and, as `secrets.key`, the service's key: the tenant's own
//! credential under the service's name, or else the server's. A key of the form `USER:PASSWORD` is also `secrets.user` and `secrets.password`.
//! Members of the body that come to nothing (null, or an empty list) are left out.
//!
//! Must not know: steps, runs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Effect;
use super::http::{HttpAnswer, HttpCall, HttpConfig, HttpTemplate, Mode};
use crate::error::{Error, Kind, Result};
use crate::expr::{Scope, Template};
use crate::provider::TenantKeys;
use crate::secret::Secret;

const BUILT_IN: [(&str, &str); 9] = [
    ("resend.toml", include_str!("../../providers/services/resend.toml")),
    ("postmark.toml", include_str!("../../providers/services/postmark.toml")),
    ("twilio.toml", include_str!("../../providers/services/twilio.toml")),
    ("telnyx.toml", include_str!("../../providers/services/telnyx.toml")),
    ("searxng.toml", include_str!("../../providers/services/searxng.toml")),
    ("wikipedia.toml", include_str!("../../providers/services/wikipedia.toml")),
    ("brave.toml", include_str!("../../providers/services/brave.toml")),
    ("tavily.toml", include_str!("../../providers/services/tavily.toml")),
    ("github.toml", include_str!("../../providers/services/github.toml")),
];

/// What a service does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    Mail,
    Text,
    Search,
    Code,
}

/// A service's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    kind: ServiceKind,
    /// Stands for `{{base}}` at the start of the call's URL.
    #[serde(default)]
    base_url: String,
    /// The environment variable that replaces `base_url`.
    #[serde(default)]
    base_url_env: Option<String>,
    /// Environment variables of the server's own key, the first that is set.
    #[serde(default)]
    key_env: Vec<String>,
    /// It answers without a key.
    #[serde(default)]
    keyless: bool,
    call: HttpConfig,
    #[serde(default)]
    result: ResultEntry,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ResultEntry {
    /// Where the answer has its items, as `web.results`.
    items: String,
    /// Of one item, or of the answer when there are no items: templates over its members.
    #[serde(flatten)]
    members: BTreeMap<String, String>,
}

/// A service that can be asked.
#[derive(Debug, Clone)]
pub struct Service {
    pub name: String,
    pub kind: ServiceKind,
    keyless: bool,
    /// Without an address nobody can be asked.
    reachable: bool,
    key_env: Vec<String>,
    key: Option<Secret>,
    call: HttpTemplate,
    items: Vec<String>,
    members: Vec<(String, Template)>,
}

/// All services. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Services(Arc<Vec<Service>>);

impl Services {
    /// The built-in ones and those of an operator's folder; addresses and keys from the environment.
    pub fn load(folder: Option<&Path>, env: &HashMap<String, String>) -> Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut add = |origin: &str, text: &str| -> Result<()> {
            let entry: Entry = toml::from_str(text).map_err(|error| invalid(origin, &error.to_string()))?;
            entries.retain(|known| known.name != entry.name);
            entries.push(entry);
            Ok(())
        };
        for (origin, text) in BUILT_IN {
            add(origin, text)?;
        }
        let own = folder.map(|folder| folder.join("services")).filter(|folder| folder.is_dir());
        if let Some(folder) = own {
            let unreadable = |error: std::io::Error| invalid(&folder.display().to_string(), &error.to_string());
            let mut paths: Vec<_> = std::fs::read_dir(&folder).map_err(unreadable)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
            paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
            paths.sort();
            for path in paths {
                add(&path.display().to_string(), &std::fs::read_to_string(&path).map_err(unreadable)?)?;
            }
        }
        entries.into_iter().map(|entry| compile(entry, env)).collect::<Result<Vec<_>>>().map(|services| Self(Arc::new(services)))
    }

    /// The service of this name, or else the first of the kind that can be asked. The error says what to do.
    pub fn find(&self, kind: ServiceKind, name: Option<&str>, keys: &TenantKeys) -> Result<&Service> {
        let mut of_kind = self.0.iter().filter(|service| service.kind == kind);
        let ready = |service: &Service| service.reachable && (service.keyless || service.key(keys).is_some());
        let names =
            || self.0.iter().filter(|service| service.kind == kind).map(|service| service.name.as_str()).collect::<Vec<_>>().join(", ");
        let unconfigured = |message: String| Error::new(Kind::Unconfigured, "service_not_configured", message);
        match name {
            Some(name) => {
                let service = of_kind.find(|service| service.name == name).ok_or_else(|| {
                    Error::new(Kind::Invalid, "unknown_service", format!("unknown provider `{name}`; one of {}", names()))
                })?;
                if ready(service) {
                    return Ok(service);
                }
                let variables = service.key_env.join(" or ");
                Err(unconfigured(format!("the provider `{name}` has no key or no address"))
                    .next(format!("store a credential named `{name}`, or set {variables} in the server's environment")))
            }
            None => of_kind.find(|service| ready(service)).ok_or_else(|| {
                unconfigured("no provider of this kind is configured".to_owned()).next(format!("store a credential for one of {}", names()))
            }),
        }
    }
}

impl Service {
    fn key<'a>(&'a self, keys: &'a TenantKeys) -> Option<&'a Secret> {
        keys.get(&self.name).or(self.key.as_ref())
    }

    pub const fn effect(&self) -> Effect {
        self.call.effect()
    }

    /// The call that says `values`. `path` is appended to the address, segment by segment.
    pub fn call(
        &self,
        values: &Map<String, Value>,
        path: &[&str],
        keys: &TenantKeys,
        idempotency: &str,
        budget: Duration,
    ) -> Result<HttpCall> {
        let mut secrets = BTreeMap::new();
        let key = self.key(keys).cloned().unwrap_or_default();
        if let Some((user, password)) = key.expose().split_once(':') {
            secrets.insert("user".to_owned(), Secret::new(user));
            secrets.insert("password".to_owned(), Secret::new(password));
        }
        let anonymous = key.is_empty();
        secrets.insert("key".to_owned(), key);
        let mut call = self.call.render(&Scope::new([values]).with_secrets(&secrets), idempotency, budget)?;
        if anonymous {
            call.without_credentials();
        }
        call.of_operator();
        call.leave_nothings_out();
        call.append(path)?;
        Ok(call)
    }

    /// Returns the items of a response, or the response itself, with the members that the service's file names. Errors: as for [`HttpAnswer::read`].
    pub fn read(&self, answer: &HttpAnswer) -> Result<Vec<Value>> {
        let value = answer.read()?;
        let place = self.items.iter().try_fold(&value, |value, key| value.get(key.as_str()));
        let items: Vec<&Value> = match place {
            Some(Value::Array(items)) => items.iter().collect(),
            Some(other) if self.items.is_empty() => vec![other],
            _ => Vec::new(),
        };
        let read = |item: &Value| {
            let own = item.as_object().cloned().unwrap_or_default();
            let scope = Scope::new([&own]);
            let members =
                self.members.iter().map(|(name, template)| (name.clone(), template.render(&scope).map_or(Value::Null, |read| read.value)));
            Value::Object(members.collect())
        };
        Ok(items.into_iter().map(read).collect())
    }
}

fn invalid(origin: &str, why: &str) -> Error {
    Error::new(Kind::Invalid, "invalid_catalogue", format!("{origin}: {why}"))
}

fn compile(entry: Entry, env: &HashMap<String, String>) -> Result<Service> {
    let set = |name: &String| env.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let base = entry.base_url_env.as_ref().and_then(set).unwrap_or(entry.base_url);
    let mut config = entry.call;
    config.url = config.url.replace("{{base}}", base.trim_end_matches('/'));
    let fault = |why: String| invalid(&format!("the service `{}`", entry.name), &why);
    let call = HttpTemplate::compile(&config, Mode::Step).map_err(|faults| fault(json!(faults.0).to_string()))?;
    let members =
        entry.result.members.into_iter().map(|(name, text)| Ok((name, Template::parse(&text).map_err(|error| fault(error.to_string()))?)));
    Ok(Service {
        kind: entry.kind,
        keyless: entry.keyless,
        reachable: !base.is_empty(),
        key: entry.key_env.iter().find_map(set).map(Secret::new),
        key_env: entry.key_env,
        call,
        items: entry.result.items.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect(),
        members: members.collect::<Result<_>>()?,
        name: entry.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_services_compile_and_ask_for_their_keys() {
        let services = Services::load(None, &HashMap::new()).unwrap();
        let keys = TenantKeys::default();
        assert_eq!(services.find(ServiceKind::Search, None, &keys).unwrap().name, "wikipedia", "the first that needs nothing");
        let error = services.find(ServiceKind::Mail, Some("resend"), &keys).unwrap_err();
        assert_eq!(error.code(), "service_not_configured");
        assert_eq!(services.find(ServiceKind::Mail, Some("nobody"), &keys).unwrap_err().code(), "unknown_service");
        let own: TenantKeys = [("twilio".to_owned(), Secret::new("sid:token"))].into_iter().collect();
        assert_eq!(services.find(ServiceKind::Text, None, &own).unwrap().name, "twilio");
    }

    #[test]
    fn an_answer_is_read_by_the_services_file() {
        let services = Services::load(None, &HashMap::new()).unwrap();
        let wikipedia = services.find(ServiceKind::Search, Some("wikipedia"), &TenantKeys::default()).unwrap();
        let body = json!({ "query": { "search": [{ "title": "Tea", "pageid": 7, "snippet": "a drink" }, { "title": "Sea" }] } });
        let answer: HttpAnswer = serde_json::from_value(body).unwrap();
        let read = wikipedia.read(&answer).unwrap();
        assert_eq!(read[0], json!({ "title": "Tea", "url": "https://en.wikipedia.org/?curid=7", "snippet": "a drink" }));
        assert_eq!(read.len(), 2);
    }
}
