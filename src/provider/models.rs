//! The face of all models for everyone above: names, keys, calls, prices.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::attempts::{self, Call, ModelStream};
use super::catalogue::{Auth, Capability, Catalogue, ModelEntry, ModelRef, ProviderEntry};
use super::completion::Usage;
use super::echo::Echo;
use super::price::{Cost, Price};
use super::quirks::Quirks;
use super::routing::{Deployment, DeploymentRouter};
use super::{
    Anthropic, Bedrock, ChatRequest, Cohere, Deadlines, EmbedCall, Embedded, Gemini, OpenAi, Provider, ProviderCall, ProviderError,
    Responses, prepare, worst_case,
};
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
    /// Models without a key, and models that nobody knows, are played by `local/echo`.
    pub dev: bool,
    /// The provider of every model name that is not known.
    pub default_provider: Option<String>,
    /// Names of the operator's own, and the models that they stand for.
    pub aliases: BTreeMap<String, String>,
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
    default_provider: Option<String>,
    aliases: BTreeMap<String, String>,
    router: DeploymentRouter,
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
    /// How long is waited before it takes over from the model before it in a chain.
    pub delay: Duration,
    /// Empty when nobody has stated them.
    pub capabilities: Vec<Capability>,
    pub(super) client: Arc<dyn Provider>,
    /// Never empty.
    pub(super) deployments: Vec<Deployment>,
    pub(super) router: DeploymentRouter,
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

    /// The most that one attempt of this request may use.
    pub fn worst_usage(&self, request: &ChatRequest) -> Usage {
        worst_case::usage(request, self)
    }

    /// What this usage costs at the most, in nano-dollars: as if nothing came from a cache, and all of it was written to one.
    pub fn worst_cost(&self, usage: &Usage) -> u64 {
        let fresh = self.cost(usage).nano_usd;
        fresh.max(self.cost(&Usage { cache_write: usage.input, ..*usage }).nano_usd)
    }

    /// The words for an effort that the model takes; empty when nobody has stated them.
    pub fn efforts(&self) -> &[String] {
        &self.quirks.efforts
    }

    pub(super) fn target(&self) -> prepare::RequestTarget<'_> {
        prepare::RequestTarget {
            origin: self.name().to_string(),
            rules: self.client.rules(),
            quirks: &self.quirks,
            capabilities: &self.capabilities,
        }
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
        let Setup { catalogue, env, egress, clock, deadlines, dev, default_provider, aliases } = setup;
        let wanted = catalogue.providers().iter().flat_map(environment_of);
        let mut env: HashMap<String, Secret> =
            wanted.filter_map(|name| Some((name.clone(), Secret::new(env.get(&name)?.trim())))).collect();
        join_aws_credentials(&mut env);
        let clients: [Arc<dyn Provider>; 7] = [
            Arc::new(Responses::new(egress.clone(), clock.clone())),
            Arc::new(Bedrock::new(egress.clone(), clock.clone())),
            Arc::new(Cohere::new(egress.clone(), clock.clone())),
            Arc::new(Echo::new(clock.clone())),
            Arc::new(OpenAi::new(egress.clone(), clock.clone())),
            Arc::new(Anthropic::new(egress.clone(), clock.clone())),
            Arc::new(Gemini::new(egress, clock.clone())),
        ];
        let wires = clients.into_iter().map(|client| (client.wire(), client)).collect();
        let router = DeploymentRouter::default();
        Self(Arc::new(Inner { catalogue, env, wires, clock, deadlines, dev, default_provider, aliases, router }))
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

    /// Returns the providers that the server itself has a key for.
    pub fn with_keys(&self) -> Vec<&str> {
        let has_key = |entry: &&ProviderEntry| {
            self.env_key(entry).is_some() || entry.deployments.iter().any(|further| self.env(&further.key_env).is_some())
        };
        self.0.catalogue.providers().iter().filter(has_key).map(|entry| entry.name.as_str()).collect()
    }

    pub fn deadlines(&self) -> Deadlines {
        self.0.deadlines
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.0.catalogue
    }

    /// Finds the model that a person means: an alias of the operator, else see [`Catalogue::resolve`]. A name that nobody knows belongs
    /// to the default provider, if there is one.
    pub fn resolve(&self, name: &str) -> Result<ModelRef> {
        let name = self.0.aliases.get(name.trim()).map_or(name, String::as_str);
        self.0.catalogue.resolve(name).or_else(|error| match &self.0.default_provider {
            Some(provider) => self.0.catalogue.resolve(&format!("{provider}/{}", name.trim())),
            None if self.0.dev && is_model_name(name.trim()) => {
                Ok(ModelRef { provider: UNKNOWN_PROVIDER.to_owned(), model: name.trim().to_owned() })
            }
            None => Err(error),
        })
    }

    /// The names that the operator chose.
    pub fn alias_names(&self) -> impl Iterator<Item = &str> {
        self.0.aliases.keys().map(String::as_str)
    }

    /// Makes a model callable with the tenant's key or else the server's. In development a model without a key
    /// is played by `local/echo`; otherwise the error names the variable to set.
    pub fn check(&self, wanted: &ModelRef, keys: &TenantKeys) -> Result<Resolved> {
        if self.0.dev && wanted.provider == UNKNOWN_PROVIDER {
            return self.play(&wanted.model, keys);
        }
        let entry = self.0.catalogue.provider(&wanted.provider).ok_or_else(|| unknown_provider(wanted))?;
        let key = keys.get(&entry.name).cloned().or_else(|| self.env_key(entry));
        let further = entry.deployments.iter().any(|further| self.env(&further.key_env).is_some());
        if key.is_some() || entry.keyless || further {
            return self.resolved(entry, &wanted.model, key);
        }
        if self.0.dev {
            return self.play(&wanted.to_string(), keys);
        }
        Err(unconfigured(entry))
    }

    /// `local/echo` in the place of another model.
    fn play(&self, wanted: &str, keys: &TenantKeys) -> Result<Resolved> {
        let echo = self.check(&ModelRef { provider: ECHO.0.to_owned(), model: ECHO.1.to_owned() }, keys)?;
        Ok(Resolved { substituted_for: Some(wanted.to_owned()), ..echo })
    }

    /// Starts a call; see [`ModelStream`].
    pub fn stream(&self, call: Call) -> ModelStream {
        attempts::start(call, self.0.clock.clone())
    }

    /// Embeds texts, at most [`MOST_TEXTS`](super::MOST_TEXTS); one request.
    pub async fn embed(&self, model: &Resolved, texts: Vec<String>, dimensions: Option<u32>) -> Result<(Embedded, Cost), ProviderError> {
        let deployment = model.router.pick(&model.deployments, self.0.clock.instant(), |sum| self.0.clock.below(sum));
        let call = ProviderCall {
            base_url: deployment.map_or_else(String::new, |deployment| deployment.base_url.clone()),
            key: deployment.and_then(|deployment| deployment.key.clone()),
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
        let listed = |model: &&ModelEntry| !model.is_family();
        providers.flat_map(|entry| entry.models.iter().filter(listed).map(move |model| self.card(entry, model, keys))).collect()
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
        let known = entry.model(model);
        let wire = known.and_then(|known| known.wire.as_deref()).unwrap_or(&entry.wire);
        let client = self.0.wires.get(wire).cloned().ok_or_else(|| {
            Error::new(
                Kind::Invalid,
                "unknown_wire",
                format!("provider `{}` wants the wire format `{wire}`, which does not exist", entry.name),
            )
        })?;
        let quirks = Quirks::of(&entry.quirks, known.map(|known| &known.quirks));
        let max_output = known.and_then(|known| known.max_output);
        Ok(Resolved {
            provider: entry.name.clone(),
            model: known.map_or(model, |known| known.name_of(model)).to_owned(),
            substituted_for: None,
            price: known.and_then(|known| known.price.clone()),
            context: known.and_then(|known| known.context),
            max_output,
            delay: Duration::ZERO,
            capabilities: known.map(|known| known.capabilities.clone()).unwrap_or_default(),
            client,
            deployments: self.deployments(entry, key)?,
            router: self.0.router.clone(),
            auth: entry.auth.clone(),
            headers: entry.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            quirks: Quirks { max_output: quirks.max_output.or(max_output), ..quirks },
        })
    }

    /// The keys and servers of a provider: with a tenant's own key only that one.
    fn deployments(&self, entry: &ProviderEntry, key: Option<Secret>) -> Result<Vec<Deployment>> {
        let own_url = entry.base_url_env.as_deref().and_then(|name| self.env(name)).map(|url| url.expose().to_owned());
        let base_url = match own_url {
            Some(url) => url,
            None => self.fill_url(entry, &entry.base_url)?,
        };
        let trimmed = |url: String| url.trim_end_matches('/').to_owned();
        let is_own = self.env_key(entry).as_ref().map(Secret::expose) == key.as_ref().map(Secret::expose);
        let mut deployments = vec![Deployment::new(&entry.name, trimmed(base_url.clone()), key, 1)];
        for further in entry.deployments.iter().filter(|_| is_own) {
            let Some(key) = self.env(&further.key_env).cloned() else { continue };
            let url = match &further.base_url {
                Some(url) => self.fill_url(entry, url)?,
                None => base_url.clone(),
            };
            deployments.push(Deployment::new(&entry.name, trimmed(url), Some(key), further.weight));
        }
        // A provider whose keys are all further ones has none of its own.
        if deployments.len() > 1 && !entry.keyless {
            deployments.retain(|deployment| deployment.key.is_some());
        }
        Ok(deployments)
    }

    /// A URL with its `{NAME}` parts taken from the environment.
    fn fill_url(&self, entry: &ProviderEntry, url: &str) -> Result<String> {
        let mut filled = url.to_owned();
        for name in placeholders(url) {
            let value = self.env(&name).ok_or_else(|| {
                let message = format!("the address of the provider `{}` needs {name}", entry.name);
                Error::new(Kind::Unconfigured, "provider_not_configured", message).next(format!("set {name} in the server's environment"))
            })?;
            filled = filled.replace(&format!("{{{name}}}"), value.expose());
        }
        Ok(filled)
    }
}

/// The provider of models that nobody knows, which `local/echo` plays in development.
const UNKNOWN_PROVIDER: &str = "unknown";

fn is_model_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 256 && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.:/@+".contains(letter))
}

/// The `{NAME}` parts of a URL.
fn placeholders(url: &str) -> Vec<String> {
    let parts = url.split('{').skip(1).filter_map(|part| Some(part.split_once('}')?.0.to_owned()));
    parts.collect()
}

/// The environment variables that a provider reads.
fn environment_of(entry: &ProviderEntry) -> Vec<String> {
    let mut names: Vec<String> = entry.key_env.iter().chain(&entry.base_url_env).cloned().collect();
    names.extend(placeholders(&entry.base_url));
    for deployment in &entry.deployments {
        names.push(deployment.key_env.clone());
        names.extend(deployment.base_url.as_deref().map(placeholders).unwrap_or_default());
    }
    if entry.auth == Auth::Aws {
        names.extend(AWS_NAMES.map(str::to_owned));
    }
    names
}

/// How AWS names the parts of a credential.
const AWS_NAMES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Joins AWS's own variables to the one credential that a provider reads.
fn join_aws_credentials(env: &mut HashMap<String, Secret>) {
    let [id, secret, token] = AWS_NAMES.map(|name| env.get(name).map(|value| value.expose().to_owned()).filter(|value| !value.is_empty()));
    if let (Some(id), Some(secret)) = (id, secret) {
        let joined = [Some(id), Some(secret), token].into_iter().flatten().collect::<Vec<_>>().join(":");
        env.entry("AWS_CREDENTIALS".to_owned()).or_insert_with(|| Secret::new(joined));
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
