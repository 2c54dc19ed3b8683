//! What flows and agents have in common once they are saved: a name, versions, and one of them published.
//!
//! A version is a document that compiles; whoever makes one has seen to that. An agent goes by [`AgentId::as_flow`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::provenance;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::http::extract::InPath;
use crate::id::{AgentId, FlowId, FlowVersionId, TenantId};
use crate::model::TargetKind;
use crate::store::{FlowVersion, SavedFlow, SharedStore, StoreError};

/// Most characters of a name.
const LONGEST_NAME: usize = 255;

/// A tenant's saved flows, or its agents.
pub(super) struct Shelf<'a> {
    pub store: &'a SharedStore,
    pub tenant: TenantId,
    pub kind: TargetKind,
}

/// Whether the current version is the published one.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SavedStatus")]
pub(super) enum Status {
    Draft,
    Published,
}

impl Status {
    pub fn of(saved: &SavedFlow) -> Self {
        if saved.published == Some(saved.current) { Self::Published } else { Self::Draft }
    }
}

/// Which version to publish.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PublishInput {
    /// The current version when absent.
    pub version_id: Option<FlowVersionId>,
}

/// What a publication came to.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Publication {
    /// Always true.
    success: bool,
    /// For people.
    message: String,
    /// The version that was published.
    version_id: FlowVersionId,
    /// What was applied: `{versionId}`.
    applied: Map<String, Value>,
    /// Always `api`.
    last_modified_source: &'static str,
    /// Always empty.
    warnings: Vec<String>,
}

impl Publication {
    /// What was published of this flow or agent.
    pub fn of(saved: &SavedFlow) -> Self {
        let version = saved.published.unwrap_or(saved.current);
        Self {
            success: true,
            message: format!("the {} was published", saved.kind.as_str()),
            version_id: version,
            applied: [("versionId".to_owned(), json!(version))].into_iter().collect(),
            last_modified_source: "api",
            warnings: Vec::new(),
        }
    }
}

/// What is saved, and the version of it that is current.
pub(super) type Current = (SavedFlow, FlowVersion);

/// A version of a document that compiles. The store sets its number.
pub(super) fn version(clock: &Clock, id: FlowId, document: Value) -> FlowVersion {
    FlowVersion { id: FlowVersionId::new(clock), flow: id, number: 0, document, created_at: clock.now(), published_at: None }
}

impl Shelf<'_> {
    /// There is none of this id or name.
    pub fn missing(&self) -> Error {
        match self.kind {
            TargetKind::Flow => FlowId::missing(),
            TargetKind::Agent => AgentId::missing(),
        }
    }

    /// The name is taken by another one of this kind.
    fn refused(&self, error: StoreError) -> Error {
        match error {
            StoreError::Exists(_) if self.kind == TargetKind::Agent => StoreError::Exists("an agent with this name").into(),
            error => error.into(),
        }
    }

    pub async fn head(&self, id: FlowId) -> Result<SavedFlow> {
        self.store.find_flow(self.tenant, self.kind, id).await?.ok_or_else(|| self.missing())
    }

    pub async fn current(&self, id: FlowId) -> Result<Current> {
        let saved = self.head(id).await?;
        let version = self.store.find_flow_version(self.tenant, saved.current).await?.ok_or_else(|| self.missing())?;
        Ok((saved, version))
    }

    /// Saves a new one. Doing it again with the same id finds it saved.
    pub async fn create(&self, version: FlowVersion) -> Result<Current> {
        let saved = self.named(&version, version.created_at)?;
        match self.store.create_flow(self.tenant, saved.clone(), version.clone()).await {
            Ok(()) => Ok((saved, version)),
            // Taken by ourselves, in a try whose answer was lost.
            Err(StoreError::Exists(_)) if self.store.find_flow(self.tenant, self.kind, saved.id).await?.is_some() => {
                self.current(saved.id).await
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Makes a version the current one, on top of what was read; the same document again is no new version.
    pub async fn change(&self, (old, current): Current, next: FlowVersion) -> Result<Current> {
        if provenance::content(&next.document) == provenance::content(&current.document) {
            return Ok((old, current));
        }
        let changed = SavedFlow { created_at: old.created_at, published: old.published, ..self.named(&next, next.created_at)? };
        let changed = self.store.update_flow(self.tenant, changed, Some(next.clone()), Some(old.current)).await;
        if let Some(changed) = changed.map_err(|error| self.refused(error))? {
            return Ok((changed, next));
        }
        self.head(old.id).await?;
        let error = match self.kind {
            TargetKind::Flow => Error::new(Kind::Conflict, "flow_changed", "somebody else saved this flow at the same time"),
            TargetKind::Agent => Error::new(Kind::Conflict, "agent_changed", "somebody else saved this agent at the same time"),
        };
        Err(error.next("read it again, then repeat the change"))
    }

    /// Publishes a version, the current one when none is named.
    pub async fn publish(&self, id: FlowId, version: Option<FlowVersionId>, now: Timestamp) -> Result<Current> {
        let version = version.unwrap_or(self.head(id).await?.current);
        if !self.store.publish_flow(self.tenant, self.kind, id, version, now).await? {
            return Err(FlowVersionId::missing());
        }
        self.current(id).await
    }

    pub async fn delete(&self, id: FlowId) -> Result<()> {
        if self.store.delete_flow(self.tenant, self.kind, id).await? { Ok(()) } else { Err(self.missing()) }
    }

    /// All versions, newest first.
    pub async fn versions(&self, id: FlowId) -> Result<Vec<FlowVersion>> {
        self.head(id).await?;
        Ok(self.store.list_flow_versions(self.tenant, id).await?)
    }

    pub async fn version(&self, id: FlowId, version: FlowVersionId) -> Result<FlowVersion> {
        self.head(id).await?;
        let found = self.store.find_flow_version(self.tenant, version).await?.filter(|found| found.flow == id);
        found.ok_or_else(FlowVersionId::missing)
    }

    /// What a version makes when it is current.
    fn named(&self, version: &FlowVersion, now: Timestamp) -> Result<SavedFlow> {
        let text = |key: &str| version.document.get(key).and_then(Value::as_str).map(|text| text.trim().to_owned());
        let name = text("name").ok_or_else(|| Error::invalid_at("/name", "expected a text that is not empty"))?;
        if name.chars().count() > LONGEST_NAME {
            return Err(Error::invalid_at("/name", format!("a name has at most {LONGEST_NAME} characters")));
        }
        Ok(SavedFlow {
            id: version.flow,
            kind: self.kind,
            name,
            description: text("description"),
            created_at: now,
            updated_at: now,
            current: version.id,
            published: None,
        })
    }
}
