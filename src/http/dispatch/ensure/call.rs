//! One call of `ensure` or `pull`.

use serde_json::{Map, Value, json};

use super::super::agent_hash::agent_hash;
use super::super::saved::{Current, Shelf};
use super::super::{agent_document, agents, flows, provenance, releases};
use super::{ConflictPolicy, Deployment, EnsureAnswer, EnsureInput, EnsureResult, PlannedChange, PullAnswer, ReleasePolicy, VersionNote};
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::problem::Problem;
use crate::id::{AgentId, FlowId};
use crate::model::{Caller, TargetKind};
use crate::store::FlowVersion;

/// One call of `ensure` or `pull`.
pub(super) struct EnsureCall<'a> {
    state: &'a AppState,
    caller: &'a Caller,
    shelf: Shelf<'a>,
}

impl<'a> EnsureCall<'a> {
    pub(super) fn new(state: &'a AppState, caller: &'a Caller, kind: TargetKind) -> Self {
        Self { state, caller, shelf: Shelf { store: &state.store, tenant: caller.tenant, kind } }
    }

    /// Reads a definition by its name.
    pub(super) async fn pull(&self, name: &str) -> Result<PullAnswer> {
        let (saved, version) = self.live(name).await?.ok_or_else(|| self.shelf.missing())?;
        let (agent_id, flow_id) = self.ids(saved.id);
        Ok(PullAnswer {
            agent_id,
            flow_id,
            version_id: version.id,
            content_hash: self.hash(&version.document),
            last_modified_source: provenance::source(&version.document).map(str::to_owned),
            definition: self.definition(&version.document),
            updated_at: saved.updated_at,
        })
    }

    /// Saves a definition, or says whether it is saved.
    pub(super) async fn ensure(&self, input: EnsureInput) -> Result<EnsureAnswer, Problem> {
        let hash = self.check(&input)?;
        let live = self.live(input.name.trim()).await?;
        let live_hash = live.as_ref().map(|(_, version)| self.hash(&version.document));
        let Some(definition) = input.definition.as_ref() else {
            let same = hash.is_some() && live_hash == hash;
            return match live.filter(|_| same) {
                Some(live) => Ok(self.finish(EnsureResult::Unchanged, live, &input).await?),
                None => Ok(EnsureAnswer::of(EnsureResult::DefinitionRequired)),
            };
        };
        let definition = Value::Object(definition.clone());
        let wanted = self.hash(&definition);
        let same = live_hash.as_ref() == Some(&wanted);
        let is_expected = match &input.expected_remote_hash {
            Some(expected) if live_hash.as_ref() != Some(expected) => {
                let error = Error::new(Kind::Conflict, "remote_changed", "what is saved has another hash than `expectedRemoteHash`");
                return Err(self.conflict(error, live.as_ref()));
            }
            expected => expected.is_some(),
        };
        if input.dry_run == Some(true) {
            self.compile(live.as_ref(), &definition).await?;
            return Ok(self.plan(live, &definition, wanted, live_hash, &input).await?);
        }
        let overwrites = is_expected || input.on_conflict == Some(ConflictPolicy::Overwrite);
        if let Some(live) = live.as_ref().filter(|(_, version)| !same && !overwrites && provenance::is_edited(&version.document)) {
            let message = "it was changed in another way since it was saved by `ensure` or an upsert";
            return Err(self.conflict(Error::new(Kind::Conflict, "external_modification", message), Some(live)));
        }
        match live {
            Some(live) if same => Ok(self.finish(EnsureResult::Unchanged, live, &input).await?),
            live => {
                let mut next = self.compile(live.as_ref(), &definition).await?;
                next.document = provenance::converged(&labelled(definition, input.version.as_ref()), &wanted);
                let (result, current) = match live {
                    Some(live) => (EnsureResult::Updated, self.shelf.change(live, next).await?),
                    None => (EnsureResult::Created, self.shelf.create(next).await?),
                };
                Ok(self.finish(result, current, &input).await?)
            }
        }
    }

    /// The members that must be right before anything is read; the hash that was given.
    fn check(&self, input: &EnsureInput) -> Result<Option<String>> {
        let mut problems = Problems::default();
        if input.name.trim().is_empty() {
            problems.add("/name", "expected a text that is not empty");
        }
        let hash = provenance::given_hash(input.content_hash.as_ref(), "/contentHash", &mut problems);
        match &input.definition {
            None if hash.is_none() && problems.0.is_empty() => problems.add("/definition", "expected a `definition`, or its `contentHash`"),
            None if input.dry_run == Some(true) => problems.add("/definition", "a dry run needs the `definition`"),
            None => {}
            Some(definition) => {
                let name = definition.get("name").and_then(Value::as_str).unwrap_or_default();
                if name.trim() != input.name.trim() {
                    problems.add("/definition/name", "expected the `name` that stands beside the definition");
                }
            }
        }
        if let Some(deploy) = &input.deploy {
            if self.shelf.kind == TargetKind::Flow {
                problems.add("/deploy", "flows have no aliases; `release: \"publish\"` publishes");
            } else if deploy.alias != releases::LIVE {
                problems.add("/deploy/alias", "expected `live`; PUT /v1/agents/{agentId}/releases/{alias} moves other aliases");
            }
            if !deploy.bindings.is_empty() {
                problems.add("/deploy/bindings", "not available in this version");
            }
            if input.release.is_some() {
                problems.add("/release", "`deploy` says which alias; give one of them");
            }
        }
        problems.into_result()?;
        if self.deploys(input) && self.shelf.kind == TargetKind::Agent {
            releases::may_move(self.caller, releases::LIVE)?;
        }
        Ok(hash)
    }

    fn deploys(&self, input: &EnsureInput) -> bool {
        input.deploy.is_some() || input.release == Some(ReleasePolicy::Publish)
    }

    async fn live(&self, name: &str) -> Result<Option<Current>> {
        let Some(saved) = self.shelf.store.find_flow_by_name(self.shelf.tenant, self.shelf.kind, name).await? else { return Ok(None) };
        Ok(self.shelf.store.find_flow_version(self.shelf.tenant, saved.current).await?.map(|version| (saved, version)))
    }

    /// A version of a definition that compiles; faults are those of `definition`.
    async fn compile(&self, live: Option<&Current>, definition: &Value) -> Result<FlowVersion> {
        let (shelf, engine, clock) = (&self.shelf, &self.state.engine, &self.state.clock);
        let id = live.map(|(saved, _)| saved.id);
        let version = match shelf.kind {
            TargetKind::Flow => flows::version(shelf, engine, clock, id.unwrap_or_else(|| FlowId::new(clock)), definition.clone()).await,
            TargetKind::Agent => {
                let id = id.map_or_else(|| AgentId::new(clock), AgentId::of_flow);
                agents::checked(shelf, engine, clock, id, definition.clone()).await
            }
        };
        version.map_err(|error| error.under("/definition"))
    }

    async fn plan(
        &self,
        live: Option<Current>,
        definition: &Value,
        wanted: String,
        live_hash: Option<String>,
        input: &EnsureInput,
    ) -> Result<EnsureAnswer> {
        let changes = match &live_hash {
            None => PlannedChange::Create,
            Some(hash) if *hash == wanted => PlannedChange::None,
            Some(_) => PlannedChange::Update,
        };
        let before = live.as_ref().map(|(_, version)| self.members(&version.document)).unwrap_or_default();
        let after = self.members(definition);
        let mut changed: Vec<String> = Vec::new();
        if changes != PlannedChange::None {
            let names = after.keys().chain(before.keys().filter(|name| !after.contains_key(*name)));
            changed.extend(names.filter(|name| before.get(*name) != after.get(*name)).cloned());
        }
        let (agent_id, flow_id) = live.as_ref().map_or((None, None), |(saved, _)| self.ids(saved.id));
        let mut deployment = None;
        if self.deploys(input) && self.shelf.kind == TargetKind::Agent {
            let version_id = match &live {
                Some((saved, _)) => releases::released(self.shelf.store, self.shelf.tenant, saved.id, releases::LIVE).await?,
                None => None,
            };
            let is_there = changes == PlannedChange::None && version_id == live.as_ref().map(|(saved, _)| saved.current);
            deployment = Some(Deployment { alias: releases::LIVE, changed: !is_there, version_id });
        }
        Ok(EnsureAnswer {
            agent_id,
            flow_id,
            content_hash: Some(wanted),
            remote_hash: live_hash,
            changes: Some(changes),
            changed_keys: Some(changed),
            deployment,
            ..EnsureAnswer::of(EnsureResult::Plan)
        })
    }

    /// Publishes if that is asked for, and answers.
    async fn finish(&self, result: EnsureResult, (saved, version): Current, input: &EnsureInput) -> Result<EnsureAnswer> {
        let mut deployment = None;
        if self.deploys(input) {
            if saved.published != Some(version.id) {
                self.shelf.publish(saved.id, Some(version.id), self.state.clock.now()).await?;
            }
            if self.shelf.kind == TargetKind::Agent {
                let agent = AgentId::of_flow(saved.id);
                let changed = releases::move_live(self.shelf.store, &self.state.clock, self.caller, agent, version.id).await?;
                deployment = Some(Deployment { alias: releases::LIVE, changed, version_id: Some(version.id) });
            }
        }
        let (agent_id, flow_id) = self.ids(saved.id);
        Ok(EnsureAnswer {
            agent_id,
            flow_id,
            version_id: Some(version.id),
            content_hash: Some(self.hash(&version.document)),
            deployment,
            ..EnsureAnswer::of(result)
        })
    }

    /// The refusal with what the caller needs to decide; clients look for it beside the envelope's members.
    fn conflict(&self, error: Error, live: Option<&Current>) -> Problem {
        let facts = json!({
            "lastModifiedSource": live.and_then(|(_, version)| provenance::source(&version.document)),
            "modifiedAt": live.map(|(saved, _)| saved.updated_at),
            "currentHash": live.map(|(_, version)| self.hash(&version.document)),
        });
        let error = error.details(facts.clone()).next("read it with `pull`, take over its changes, or send `onConflict: \"overwrite\"`");
        Problem::from(error).with(facts)
    }

    fn ids(&self, id: FlowId) -> (Option<AgentId>, Option<FlowId>) {
        match self.shelf.kind {
            TargetKind::Agent => (Some(AgentId::of_flow(id)), None),
            TargetKind::Flow => (None, Some(id)),
        }
    }

    fn hash(&self, document: &Value) -> String {
        match self.shelf.kind {
            TargetKind::Agent => agent_hash(document),
            TargetKind::Flow => provenance::flow_hash(document),
        }
    }

    /// The document in the form that `ensure` takes.
    fn definition(&self, document: &Value) -> Value {
        let content = provenance::content(document);
        if self.shelf.kind == TargetKind::Flow {
            return content;
        }
        let mut definition = json!({ "name": content.get("name"), "config": agent_document::settings(&content) });
        for name in ["description", "icon"] {
            if let Some(text) = content.get(name).filter(|text| !text.is_null()) {
                definition[name] = text.clone();
            }
        }
        definition
    }

    /// What a definition consists of, by name; the settings of an agent one by one.
    fn members(&self, document: &Value) -> Map<String, Value> {
        let definition = self.definition(document);
        let mut members = definition.as_object().cloned().unwrap_or_default();
        if self.shelf.kind == TargetKind::Agent
            && let Some(Value::Object(settings)) = members.shift_remove("config")
        {
            members.extend(settings);
        }
        members.retain(|name, value| !value.is_null() && name != "label" && name != "notes");
        members
    }
}

impl EnsureAnswer {
    const fn of(result: EnsureResult) -> Self {
        Self {
            result,
            agent_id: None,
            flow_id: None,
            version_id: None,
            content_hash: None,
            remote_hash: None,
            changes: None,
            changed_keys: None,
            deployment: None,
        }
    }
}

/// The definition with the note of its version.
fn labelled(mut definition: Value, note: Option<&VersionNote>) -> Value {
    if let (Some(map), Some(note)) = (definition.as_object_mut(), note) {
        for (name, text) in [("label", &note.label), ("notes", &note.notes)] {
            if let Some(text) = text.as_deref().filter(|text| !text.is_empty()) {
                map.insert(name.into(), text.into());
            }
        }
    }
    definition
}
