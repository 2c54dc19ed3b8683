//! Which servers there are, what they speak, which models they have and what those cost. All of it is data:
//! `providers/models/*.toml` is built in, and an operator's folder may replace or add files.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::price::Price;
use super::quirks::QuirkOverrides;
use crate::error::{Error, Kind, Result};

/// The built-in files. Order matters for bare model names: the first server that knows one has it.
const BUILT_IN: [(&str, &str); 27] = [
    ("local.toml", include_str!("../../providers/models/local.toml")),
    ("openai.toml", include_str!("../../providers/models/openai.toml")),
    ("anthropic.toml", include_str!("../../providers/models/anthropic.toml")),
    ("gemini.toml", include_str!("../../providers/models/gemini.toml")),
    ("mistral.toml", include_str!("../../providers/models/mistral.toml")),
    ("groq.toml", include_str!("../../providers/models/groq.toml")),
    ("openrouter.toml", include_str!("../../providers/models/openrouter.toml")),
    ("ollama.toml", include_str!("../../providers/models/ollama.toml")),
    ("vllm.toml", include_str!("../../providers/models/vllm.toml")),
    ("bedrock.toml", include_str!("../../providers/models/bedrock.toml")),
    ("vertex.toml", include_str!("../../providers/models/vertex.toml")),
    ("azure.toml", include_str!("../../providers/models/azure.toml")),
    ("cohere.toml", include_str!("../../providers/models/cohere.toml")),
    ("deepseek.toml", include_str!("../../providers/models/deepseek.toml")),
    ("xai.toml", include_str!("../../providers/models/xai.toml")),
    ("moonshot.toml", include_str!("../../providers/models/moonshot.toml")),
    ("alibaba.toml", include_str!("../../providers/models/alibaba.toml")),
    ("perplexity.toml", include_str!("../../providers/models/perplexity.toml")),
    ("together.toml", include_str!("../../providers/models/together.toml")),
    ("fireworks.toml", include_str!("../../providers/models/fireworks.toml")),
    ("cerebras.toml", include_str!("../../providers/models/cerebras.toml")),
    ("zai.toml", include_str!("../../providers/models/zai.toml")),
    ("huggingface.toml", include_str!("../../providers/models/huggingface.toml")),
    ("nvidia.toml", include_str!("../../providers/models/nvidia.toml")),
    ("lmstudio.toml", include_str!("../../providers/models/lmstudio.toml")),
    ("llamacpp.toml", include_str!("../../providers/models/llamacpp.toml")),
    ("sglang.toml", include_str!("../../providers/models/sglang.toml")),
];

/// A server's file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderEntry {
    /// The first half of `provider/model`.
    pub name: String,
    /// The wire format it speaks.
    pub wire: String,
    #[serde(default)]
    pub base_url: String,
    /// The environment variable that replaces `base_url`.
    #[serde(default)]
    pub base_url_env: Option<String>,
    /// The environment variables that may hold the key; the first is the one named to people.
    #[serde(default)]
    pub key_env: Vec<String>,
    #[serde(default)]
    pub auth: Auth,
    /// The server answers without a key.
    #[serde(default)]
    pub keyless: bool,
    #[serde(default)]
    pub headers: HashMap<String, String>,
    /// The day the prices were read, for people.
    #[serde(default)]
    pub prices_as_of: Option<String>,
    #[serde(default)]
    pub quirks: QuirkOverrides,
    /// Further keys of this server, and further servers of the same kind. Requests are shared among all of them.
    #[serde(default)]
    pub deployments: Vec<DeploymentEntry>,
    #[serde(default)]
    pub models: Vec<ModelEntry>,
}

/// A key, or a server, among which a provider's requests are shared.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentEntry {
    /// The environment variable that holds the key.
    pub key_env: String,
    /// Absent: the provider's own.
    #[serde(default)]
    pub base_url: Option<String>,
    /// Its share of the requests, beside 1 for the provider's own key.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

/// Longest name of an unknown model, in bytes, that is compared with the known ones.
const MAX_COMPARED: usize = 200;

const fn default_weight() -> u32 {
    1
}

/// A model on a server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// As the server knows it. With `*` at its end it describes every model of that beginning which is not listed itself.
    pub name: String,
    /// The wire format of this model, where it differs from its server's.
    #[serde(default)]
    pub wire: Option<String>,
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Tokens of input and output together.
    #[serde(default)]
    pub context: Option<u32>,
    #[serde(default)]
    pub max_output: Option<u32>,
    #[serde(default)]
    pub capabilities: Vec<Capability>,
    #[serde(default)]
    pub price: Option<Price>,
    #[serde(default)]
    pub quirks: QuirkOverrides,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    Tools,
    Images,
    Files,
    Json,
    JsonSchema,
    Reasoning,
    /// Turns texts into vectors; does not answer.
    Embeddings,
}

/// How a key is shown to a server: `bearer`, `none`, `header:NAME`, `aws` or `google`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(try_from = "String")]
pub enum Auth {
    #[default]
    Bearer,
    Header(String),
    /// A signature of the request (AWS Signature Version 4), or an API key of Bedrock as a bearer.
    Aws,
    /// An access token of Google Cloud, which a service account's key buys.
    Google,
    None,
}

impl TryFrom<String> for Auth {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "bearer" => Ok(Self::Bearer),
            None if text == "none" => Ok(Self::None),
            None if text == "aws" => Ok(Self::Aws),
            None if text == "google" => Ok(Self::Google),
            Some(("header", name)) if !name.is_empty() => Ok(Self::Header(name.to_owned())),
            _ => Err(format!("`{text}` is not an auth style; use bearer, none, header:NAME, aws or google")),
        }
    }
}

/// A model on a server, by name: `provider/model`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelRef {
    pub provider: String,
    pub model: String,
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.provider, self.model)
    }
}

impl Serialize for ModelRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl FromStr for ModelRef {
    type Err = String;

    /// The full form only, `provider/model`; names for people go through [`Catalogue::resolve`].
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((provider, model)) if !provider.is_empty() && !model.is_empty() => {
                Ok(Self { provider: provider.to_owned(), model: model.to_owned() })
            }
            _ => Err(format!("`{text}` is not of the form provider/model")),
        }
    }
}

/// Every server and model known.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    providers: Vec<ProviderEntry>,
}

impl Catalogue {
    /// What is built in.
    pub fn built_in() -> Result<Self> {
        let mut catalogue = Self::default();
        for (file, text) in BUILT_IN {
            catalogue.add(file, text)?;
        }
        Ok(catalogue)
    }

    /// Reads the `*.toml` files of an operator's folder over what is there, in the order of their names. A server
    /// of the same name is replaced whole.
    pub fn extend_from(&mut self, folder: &Path) -> Result<()> {
        let unreadable = |path: &Path, error: std::io::Error| {
            Error::new(Kind::Invalid, "invalid_catalogue", format!("cannot read {}: {error}", path.display()))
        };
        let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(|error| unreadable(folder, error))?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        for path in paths {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
            self.add(&path.display().to_string(), &text)?;
        }
        Ok(())
    }

    /// Adds one file; `origin` names it in errors.
    pub fn add(&mut self, origin: &str, text: &str) -> Result<()> {
        let invalid = |why: String| Error::new(Kind::Invalid, "invalid_catalogue", format!("{origin}: {why}"));
        let entry: ProviderEntry = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        if entry.name.is_empty() || entry.name.contains(['/', ':']) {
            return Err(invalid("a provider's name is not empty and has neither `/` nor `:`".to_owned()));
        }
        self.put(entry);
        Ok(())
    }

    /// Adds one server, or replaces the one of that name in its place.
    pub fn put(&mut self, entry: ProviderEntry) {
        match self.providers.iter_mut().find(|own| own.name == entry.name) {
            Some(own) => *own = entry,
            None => self.providers.push(entry),
        }
    }

    pub fn providers(&self) -> &[ProviderEntry] {
        &self.providers
    }

    pub fn provider(&self, name: &str) -> Option<&ProviderEntry> {
        self.providers.iter().find(|provider| provider.name == name)
    }

    /// The entry of a model, by its name or an alias; `None` for a model that is only known to its server.
    pub fn model(&self, wanted: &ModelRef) -> Option<&ModelEntry> {
        self.provider(&wanted.provider)?.model(&wanted.model)
    }

    /// Finds the model that a person means: `provider/model`, `provider:model`, or a bare name or alias of the
    /// catalogue. A known provider may have models that the catalogue does not list.
    pub fn resolve(&self, name: &str) -> Result<ModelRef> {
        let name = name.trim();
        if let Some(at) = name.find(['/', ':']) {
            let (provider, model) = (&name[..at], &name[at + 1..]);
            if let Some(provider) = self.provider(provider).filter(|_| is_name(model)) {
                let model = provider.model(model).map_or(model, |entry| entry.name_of(model));
                return Ok(ModelRef { provider: provider.name.clone(), model: model.to_owned() });
            }
        }
        let bare = self.providers.iter().find_map(|provider| {
            let entry = provider.model(name).filter(|entry| !entry.is_family())?;
            Some(ModelRef { provider: provider.name.clone(), model: entry.name.clone() })
        });
        bare.ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let error = Error::new(
            Kind::Invalid,
            "unknown_model",
            match self.nearest(name) {
                Some(near) => format!("unknown model `{name}`; did you mean `{near}`?"),
                None => format!("unknown model `{name}`"),
            },
        );
        let providers: Vec<&str> = self.providers.iter().map(|provider| provider.name.as_str()).collect();
        error.next(format!("name a model as provider/model; providers: {}", providers.join(", ")))
    }

    /// The known name that looks most like this one.
    fn nearest(&self, name: &str) -> Option<String> {
        const CLOSE_ENOUGH: f64 = 0.7;
        // Comparing takes time for each character, and callers choose the name.
        if name.len() > MAX_COMPARED {
            return None;
        }
        let full = self.providers.iter().flat_map(|provider| {
            let prefix = format!("{}/", provider.name);
            let names = provider.models.iter().filter(|entry| !entry.is_family()).flat_map(ModelEntry::names);
            names.flat_map(move |name| [name.to_owned(), format!("{prefix}{name}")])
        });
        let scored = full.map(|known| (strsim::jaro_winkler(name, &known), known)).filter(|(score, _)| *score >= CLOSE_ENOUGH);
        scored.max_by(|(one, _), (two, _)| one.total_cmp(two)).map(|(_, known)| known)
    }
}

/// Whether this can be a model's name. Some wire formats put it in a path, so it must not lead anywhere else.
fn is_name(model: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/@+".contains(letter);
    !model.is_empty() && model.chars().all(fits) && model.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

impl ProviderEntry {
    /// A model of this server by its name or an alias.
    pub fn model(&self, name: &str) -> Option<&ModelEntry> {
        let exact = self.models.iter().find(|entry| entry.name == name);
        let alias = || self.models.iter().find(|entry| entry.aliases.iter().any(|alias| alias == name));
        exact.or_else(alias).or_else(|| self.family(name))
    }

    /// The entry of the longest beginning that a name has.
    fn family(&self, name: &str) -> Option<&ModelEntry> {
        let beginnings = self.models.iter().filter_map(|entry| Some((entry.name.strip_suffix('*')?, entry)));
        beginnings.filter(|(start, _)| name.starts_with(start)).max_by_key(|(start, _)| start.len()).map(|(_, entry)| entry)
    }
}

impl ModelEntry {
    /// Whether the entry describes every model of a beginning.
    pub fn is_family(&self) -> bool {
        self.name.ends_with('*')
    }

    /// The name under which the server knows the model that was asked for as `asked`.
    pub fn name_of<'a>(&'a self, asked: &'a str) -> &'a str {
        if self.is_family() { asked } else { &self.name }
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.aliases.iter().map(String::as_str))
    }
}

impl ProviderEntry {
    /// A server of this name and wire that needs no key and has no listed models.
    pub fn keyless(wire: &str) -> Self {
        Self {
            name: wire.to_owned(),
            wire: wire.to_owned(),
            base_url: String::new(),
            base_url_env: None,
            key_env: Vec::new(),
            auth: Auth::None,
            keyless: true,
            headers: HashMap::new(),
            prices_as_of: None,
            quirks: QuirkOverrides::default(),
            deployments: Vec::new(),
            models: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_folder_replaces_and_adds() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write(
            "own.toml",
            "name = \"own\"\nwire = \"openai\"\nbase_url = \"http://10.0.0.1/v1\"\nkeyless = true\n[[models]]\nname = \"mine\"",
        );
        write("groq.toml", "name = \"groq\"\nwire = \"openai\"\nbase_url = \"http://10.0.0.2/v1\"");
        write("notes.txt", "not a catalogue");
        let mut catalogue = Catalogue::built_in().unwrap();
        catalogue.extend_from(folder.path()).unwrap();
        assert_eq!(catalogue.resolve("mine").unwrap().to_string(), "own/mine");
        assert!(catalogue.provider("groq").unwrap().models.is_empty());
        write("broken.toml", "name = \"x\"\nwire = \"openai\"\nprise = 1");
        let error = catalogue.extend_from(folder.path()).unwrap_err();
        assert!(error.message().contains("broken.toml") && error.message().contains("prise"), "{error}");
    }

    #[test]
    fn unknown_names_are_compared_up_to_a_length() {
        let catalogue = Catalogue::built_in().unwrap();
        let known = catalogue.providers().iter().flat_map(|provider| &provider.models).find(|model| !model.is_family()).unwrap();
        let message = |name: &str| catalogue.resolve(name).unwrap_err().message().to_owned();
        assert!(message(&format!("{}x", known.name)).contains("did you mean"));
        assert!(!message(&format!("{}{}", known.name, "x".repeat(2_000_000))).contains("did you mean"));
    }

    #[test]
    fn every_built_in_model_is_found_by_each_of_its_names() {
        let catalogue = Catalogue::built_in().unwrap();
        for provider in catalogue.providers() {
            for model in provider.models.iter().filter(|model| !model.is_family()) {
                for name in model.names() {
                    let full = format!("{}/{name}", provider.name);
                    assert_eq!(catalogue.resolve(&full).unwrap().model, model.name, "{full}");
                }
            }
        }
    }
}
