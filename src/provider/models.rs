//! The face of all models for everyone above: names, keys, calls, prices.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::attempts::{self, Call, ModelStream};
use super::catalogue::{Auth, Capability, Catalogue, ModelEntry, ModelRef, ProviderEntry};
use super::completion::Usage;
use super::echo::Echo;
use super::price::{Cost, Price};
use super::quirks::Quirks;
use super::{Anthropic, Deadlines, EmbedCall, Embedded, Gemini, OpenAi, Provider, ProviderCall, ProviderError};
use crate::clock::Clock;
use crate::error::{Error, Kind};

type Result<T, E = Error> = std::result::Result<T, E>;
use crate::net::Egress;
use crate::secret::Secret;

/// The model that answers without a key.
pub const ECHO: (&str, &str) = ("local", "echo");

/// What [`Models`] is made of.
pub struct Setup {
    pub catalogue: Catalogue,
    /// The process's environment, read once at the start: keys and base URLs are looked up here.
    pub env: HashMap<String, String>,
    pub egress: Egress,
    pub clock: Clock,
    /// Of each attempt of a call.
    pub deadlines: Deadlines,
    /// Models without a key are played by `local/echo`.
    pub dev: bool,
}

/// Keys that a tenant brought, by provider name. They win over the server's own.
#[derive(Debug, Clone, Default)]
pub struct TenantKeys(HashMap<String, Secret>);

impl TenantKeys {
    pub fn set(&mut self, provider: impl Into<String>, key: Secret) {
        self.0.insert(provider.into(), key);
    }

    pub fn get(&self, provider: &str) -> Option<&Secret> {
        self.0.get(provider).filter(|key| !key.is_empty())
    }
}

impl FromIterator<(String, Secret)> for TenantKeys {
    fn from_iter<I: IntoIterator<Item = (String, Secret)>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// All models. Cheap to clone.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    catalogue: Catalogue,
    env: HashMap<String, Secret>,
    wires: BTreeMap<&'static str, Arc<dyn Provider>>,
    clock: Clock,
    deadlines: Deadlines,
    dev: bool,
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Models({} providers)", self.0.catalogue.providers().len())
    }
}

/// A model that can be called: everything a request to it needs.
#[derive(Clone)]
pub struct Resolved {
    pub provider: String,
    pub model: String,
    /// `provider/model` that was wanted, when `local/echo` plays it.
    pub substituted_for: Option<String>,
    pub price: Option<Price>,
    /// Tokens of input and output together, when known.
    pub context: Option<u32>,
    pub max_output: Option<u32>,
    pub(super) client: Arc<dyn Provider>,
    pub(super) base_url: String,
    pub(super) key: Option<Secret>,
    pub(super) auth: Auth,
    pub(super) headers: Vec<(String, String)>,
    pub(super) quirks: Quirks,
}

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolved({}/{})", self.provider, self.model)
    }
}

impl Resolved {
    pub fn name(&self) -> ModelRef {
        ModelRef { provider: self.provider.clone(), model: self.model.clone() }
    }

    /// What this usage costs here. Local models are free; a model without a known price says so.
    pub fn cost(&self, usage: &Usage) -> Cost {
        self.price.as_ref().map_or_else(|| Cost::unknown(usage), |price| price.cost(usage))
    }
}

/// A model as listed to callers.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelCard {
    /// `provider/model`.
    pub id: String,
    pub provider: String,
    pub model: String,
    pub aliases: Vec<String>,
    pub context: Option<u32>,
    pub max_output: Option<u32>,
    pub capabilities: Vec<Capability>,
    /// A key is at hand, or none is needed.
    pub configured: bool,
    /// Absent when nobody has stated a price.
    pub price: Option<PriceCard>,
}

/// Prices in USD per million tokens.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PriceCard {
    pub input: f64,
    pub cached_input: f64,
    pub cache_write: f64,
    pub output: f64,
    /// The day the prices were read.
    pub as_of: Option<String>,
}

impl Models {
    pub fn new(setup: Setup) -> Self {
        let Setup { catalogue, env, egress, clock, deadlines, dev } = setup;
        let wanted = catalogue.providers().iter().flat_map(|provider| provider.key_env.iter().chain(&provider.base_url_env));
        let env = wanted.filter_map(|name| Some((name.clone(), Secret::new(env.get(name)?.trim())))).collect();
        let clients: [Arc<dyn Provider>; 4] = [
            Arc::new(Echo::new(clock.clone())),
            Arc::new(OpenAi::new(egress.clone(), clock.clone())),
            Arc::new(Anthropic::new(egress.clone(), clock.clone())),
            Arc::new(Gemini::new(egress, clock.clone())),
        ];
        let wires = clients.into_iter().map(|client| (client.wire(), client)).collect();
        Self(Arc::new(Inner { catalogue, env, wires, clock, deadlines, dev }))
    }

    /// Adds a provider made elsewhere. It serves every catalogue entry of its wire (in place of the built-in one),
    /// and under its wire's name as provider when there is no such entry.
    pub fn register(mut self, provider: Arc<dyn Provider>) -> Self {
        let inner = Arc::make_mut(&mut self.0);
        let wire = provider.wire();
        inner.wires.insert(wire, provider);
        if inner.catalogue.provider(wire).is_none() {
            inner.catalogue.put(ProviderEntry::keyless(wire));
        }
        self
    }

    pub fn deadlines(&self) -> Deadlines {
        self.0.deadlines
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.0.catalogue
    }

    /// Finds the model that a person means; see [`Catalogue::resolve`].
    pub fn resolve(&self, name: &str) -> Result<ModelRef> {
        self.0.catalogue.resolve(name)
    }

    /// Makes a model callable with the tenant's key or else the server's. In development a model without a key
    /// is played by `local/echo`; otherwise the error names the variable to set.
    pub fn check(&self, wanted: &ModelRef, keys: &TenantKeys) -> Result<Resolved> {
        let entry = self.0.catalogue.provider(&wanted.provider).ok_or_else(|| unknown_provider(wanted))?;
        let key = keys.get(&entry.name).cloned().or_else(|| self.env_key(entry));
        if key.is_some() || entry.keyless {
            return self.resolved(entry, &wanted.model, key);
        }
        if self.0.dev {
            let echo = self.check(&ModelRef { provider: ECHO.0.to_owned(), model: ECHO.1.to_owned() }, keys)?;
            return Ok(Resolved { substituted_for: Some(wanted.to_string()), ..echo });
        }
        Err(unconfigured(entry))
    }

    /// Starts a call; see [`ModelStream`].
    pub fn stream(&self, call: Call) -> ModelStream {
        attempts::start(call, self.0.clock.clone())
    }

    /// Embeds texts, at most [`MOST_TEXTS`](super::MOST_TEXTS); one request.
    pub async fn embed(&self, model: &Resolved, texts: Vec<String>, dimensions: Option<u32>) -> Result<(Embedded, Cost), ProviderError> {
        let call = ProviderCall {
            base_url: model.base_url.clone(),
            key: model.key.clone(),
            auth: model.auth.clone(),
            model: model.model.clone(),
            headers: model.headers.clone(),
            quirks: model.quirks.clone(),
            request: Arc::default(),
            deadlines: self.0.deadlines,
        };
        let embedded = model.client.embed(EmbedCall::new(call, texts, dimensions)).await?;
        let cost = model.cost(&embedded.usage);
        Ok((embedded, cost))
    }

    /// Every model of the catalogue.
    pub fn list(&self, keys: &TenantKeys) -> Vec<ModelCard> {
        let providers = self.0.catalogue.providers().iter();
        providers.flat_map(|entry| entry.models.iter().map(move |model| self.card(entry, model, keys))).collect()
    }

    fn card(&self, entry: &ProviderEntry, model: &ModelEntry, keys: &TenantKeys) -> ModelCard {
        ModelCard {
            id: format!("{}/{}", entry.name, model.name),
            provider: entry.name.clone(),
            model: model.name.clone(),
            aliases: model.aliases.clone(),
            context: model.context,
            max_output: model.max_output,
            capabilities: model.capabilities.clone(),
            configured: entry.keyless || keys.get(&entry.name).is_some() || self.env_key(entry).is_some(),
            price: model.price.as_ref().map(|price| PriceCard {
                input: price.input.usd_per_million(),
                cached_input: price.cached_input.unwrap_or(price.input).usd_per_million(),
                cache_write: price.cache_write.unwrap_or(price.input).usd_per_million(),
                output: price.output.usd_per_million(),
                as_of: entry.prices_as_of.clone(),
            }),
        }
    }

    fn env(&self, name: &str) -> Option<&Secret> {
        self.0.env.get(name).filter(|value| !value.is_empty())
    }

    fn env_key(&self, entry: &ProviderEntry) -> Option<Secret> {
        entry.key_env.iter().find_map(|name| self.env(name)).cloned()
    }

    fn resolved(&self, entry: &ProviderEntry, model: &str, key: Option<Secret>) -> Result<Resolved> {
        let client = self.0.wires.get(entry.wire.as_str()).cloned().ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "unknown_wire",
                format!("provider `{}` wants the wire format `{}`, which does not exist", entry.name, entry.wire),
            )
        })?;
        let known = entry.model(model);
        let own_url = entry.base_url_env.as_deref().and_then(|name| self.env(name));
        let base_url = own_url.map_or(entry.base_url.as_str(), Secret::expose).trim_end_matches('/').to_owned();
        let quirks = known.map_or_else(|| entry.quirks.clone(), |known| entry.quirks.with(&known.quirks));
        let max_output = known.and_then(|known| known.max_output);
        Ok(Resolved {
            provider: entry.name.clone(),
            model: known.map_or(model, |known| &known.name).to_owned(),
            substituted_for: None,
            price: known.and_then(|known| known.price.clone()),
            context: known.and_then(|known| known.context),
            max_output,
            client,
            base_url,
            key,
            auth: entry.auth.clone(),
            headers: entry.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            quirks: Quirks { max_output: quirks.max_output.or(max_output), ..quirks },
        })
    }
}

fn unknown_provider(wanted: &ModelRef) -> Error {
    Error::new(Kind::Invalid, "unknown_model", format!("unknown provider `{}`", wanted.provider))
}

fn unconfigured(entry: &ProviderEntry) -> Error {
    let message = format!("no key is configured for the provider `{}`", entry.name);
    let error = Error::new(Kind::Unconfigured, "provider_not_configured", message);
    match entry.key_env.first() {
        Some(name) => error.next(format!("set {name} in the server's environment, or store a key for this provider")),
        None => error.next("store a key for this provider"),
    }
}
