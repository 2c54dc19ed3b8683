//! Shapes a conversation for the wire format and the model that it goes to, before a converter writes it.
//!
//! Everything that vendors refuse is mended here, by [`WireRules`] and [`Quirks`]: histories of other models, results of tools, names and
//! ids, schemas, media types, JSON answers, settings. What changes an answer is reported as an [`Adjustment`]; what cannot be sent at all
//! is an error. Pure.

mod history;
mod json;
mod media;
mod names;
mod schema;
mod settings;

use serde::Serialize;

use super::catalogue::Capability;
use super::chat::{ChatRequest, Role};
use super::error::{Class, ProviderError};
use super::quirks::Quirks;
use super::rules::WireRules;

pub(super) use names::ToolNames;

/// A setting that was not sent as the caller wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adjustment {
    /// The setting's name, as callers write it.
    pub setting: &'static str,
    pub action: AdjustmentAction,
    pub reason: String,
}

/// What became of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentAction {
    /// It was left out.
    Omitted,
    /// It was written in another way.
    Mapped,
}

impl Adjustment {
    fn omitted(setting: &'static str, reason: impl Into<String>) -> Self {
        Self { setting, action: AdjustmentAction::Omitted, reason: reason.into() }
    }

    fn mapped(setting: &'static str, reason: impl Into<String>) -> Self {
        Self { setting, action: AdjustmentAction::Mapped, reason: reason.into() }
    }
}

/// The model that a request goes to.
pub(super) struct RequestTarget<'a> {
    /// `provider/model`.
    pub origin: String,
    pub rules: WireRules,
    pub quirks: &'a Quirks,
    /// Empty when nobody has stated them.
    pub capabilities: &'a [Capability],
}

impl RequestTarget<'_> {
    fn can(&self, capability: Capability) -> bool {
        self.capabilities.is_empty() || self.capabilities.contains(&capability)
    }
}

/// A request as its wire format takes it.
pub(super) struct PreparedRequest {
    pub request: ChatRequest,
    /// From the names that were sent to the names of the caller's tools.
    pub names: ToolNames,
    pub adjustments: Vec<Adjustment>,
}

/// Shapes a request for its target.
pub(super) fn prepare(chat: &ChatRequest, target: &RequestTarget<'_>) -> Result<PreparedRequest, ProviderError> {
    let mut request = chat.clone();
    let mut adjustments = Vec::new();
    history::drop_foreign_state(&mut request.messages, &target.origin);
    history::pair_results(&mut request.messages);
    history::fit_arguments(&mut request.messages);
    media::fit_media(&mut request.messages, target, &mut adjustments)?;
    history::drop_blank_texts(&mut request.messages, &target.rules);
    history::begin_with_user(&mut request.messages, &target.rules);
    history::fit_ids(&mut request.messages, target);
    let names = ToolNames::fit(&mut request, &target.rules, &mut adjustments);
    for tool in &mut request.tools {
        schema::flatten_root(&mut tool.parameters);
    }
    json::ask_for_json(&mut request, target);
    settings::fit_settings(&mut request, target, &mut adjustments);
    if !request.messages.iter().any(|message| message.role != Role::System) {
        return Err(unsendable("the conversation has no message with content"));
    }
    Ok(PreparedRequest { request, names, adjustments })
}

/// A request that no server would take as it is.
fn unsendable(why: impl Into<String>) -> ProviderError {
    let mut error = ProviderError::new(Class::BadRequest, why);
    error.sent = false;
    error
}

#[cfg(test)]
mod tests;
