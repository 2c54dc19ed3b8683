//! What names mean: ordered layers of variables, and the secrets of the request.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::secret::Secret;

/// The root under which a request's secrets are read.
pub const SECRETS: &str = "secrets";
/// A workflow's name for the token of its run.
pub const RUN_SESSION: &str = "run.session";
/// The root that no text of a flow may read.
const INTERNAL: &str = "_internal";

/// The secret that an unresolved name means: `secrets.NAME`, or `secret:NAME` of a managed one.
pub fn secret_named(unresolved: &str) -> Option<&str> {
    unresolved.strip_prefix("secrets.").or_else(|| unresolved.strip_prefix("secret:"))
}

/// The variables a text may name. Later layers are inner ones: they hide the same name further out.
#[derive(Debug, Clone, Default)]
pub struct Scope<'a> {
    layers: Vec<&'a Map<String, Value>>,
    secrets: Option<&'a BTreeMap<String, Secret>>,
}

impl<'a> Scope<'a> {
    /// A scope over layers given from the outermost to the innermost.
    pub fn new(layers: impl IntoIterator<Item = &'a Map<String, Value>>) -> Self {
        Self { layers: layers.into_iter().collect(), secrets: None }
    }

    /// The same scope with secrets readable as `secrets.<name>`.
    pub fn with_secrets(mut self, secrets: &'a BTreeMap<String, Secret>) -> Self {
        self.secrets = Some(secrets);
        self
    }

    /// The same scope with one more, innermost layer.
    pub fn within(&self, layer: &'a Map<String, Value>) -> Self {
        let mut inner = self.clone();
        inner.layers.push(layer);
        inner
    }

    /// The variable of this name. Never a secret, and never anything of `_internal`.
    pub fn root(&self, name: &str) -> Option<&'a Value> {
        if name == INTERNAL || name == SECRETS {
            return None;
        }
        self.layers.iter().rev().find_map(|layer| layer.get(name))
    }

    /// The secret of this name.
    pub fn secret(&self, name: &str) -> Option<&'a Secret> {
        self.secrets?.get(name)
    }

    /// All variables in one map, as scripts see them. No secrets.
    pub fn flatten(&self) -> Map<String, Value> {
        let mut all = Map::new();
        for (name, value) in self.layers.iter().copied().flatten().filter(|(name, _)| *name != INTERNAL && *name != SECRETS) {
            all.insert(name.clone(), value.clone());
        }
        all
    }
}
