//! Memory steps: `save-memory`, `recall-memory`, `memory-summary`: what is kept of somebody from execution to execution.
//!
//! Memories of a profile are texts, found again by their words: no model and no key is needed. A step that is done again after a crash keeps
//! nothing twice: a memory's id comes of the run and the step.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Fields, StepBody, StepOutput, StepType, config, own_name, text_of};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::id::MemoryId;
use crate::model::Step;
use crate::store::{Collection, Document, Kept, StoreError};

pub const SAVE: StepType = StepType {
    action: "save-memory",
    summary: "Keeps a text about somebody for later executions.",
    schema: || schemars::schema_for!(SaveConfig),
    compile: compile_save,
};

pub const RECALL: StepType = StepType {
    action: "recall-memory",
    summary: "Finds what was kept about somebody that fits a question.",
    schema: || schemars::schema_for!(RecallConfig),
    compile: compile_recall,
};

pub const SUMMARY: StepType = StepType {
    action: "memory-summary",
    summary: "Reads what was kept about somebody, newest first.",
    schema: || schemars::schema_for!(SummaryConfig),
    compile: compile_summary,
};

/// Memories that are looked through, the newest.
const MOST: u32 = 1_000;
/// Longest memory, in bytes.
const LONGEST: usize = 32 * 1024;
/// Longest name of a profile, in characters.
const LONGEST_PROFILE: usize = 500;

/// One memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    profile: String,
    session: Option<String>,
    text: String,
}

impl Document for Memory {
    const KIND: &'static str = "memory";
    type Id = MemoryId;

    fn parent(&self) -> Option<String> {
        Some(self.profile.clone())
    }
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SaveMemoryConfig")]
struct SaveConfig {
    /// Whose memory it is, as `user:{{email}}`; a template.
    profile_template: String,
    /// The variable that holds the text; anything else is kept as JSON.
    content_variable: String,
    /// Which conversation it comes from; a template.
    #[serde(default)]
    session_id: Option<String>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecallMemoryConfig")]
struct RecallConfig {
    /// Whose memory it is; a template.
    profile_template: String,
    /// What is wanted; a template. The memories that share most of its rarer words come first.
    query_template: String,
    /// How much is given: `short` (3 memories), `medium` (10) or `long` (30).
    #[serde(default)]
    response_length: Length,
    /// Accepted for compatibility; words are compared whatever it says.
    #[serde(default)]
    #[expect(dead_code, reason = "part of the contract")]
    thinking_level: Option<String>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MemorySummaryConfig")]
struct SummaryConfig {
    /// Whose memory it is; a template.
    profile_template: String,
    /// Only what comes from this conversation; a template.
    #[serde(default)]
    session_id: Option<String>,
}

/// How much is recalled.
#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "MemoryLength")]
pub enum Length {
    Short,
    #[default]
    Medium,
    Long,
}

impl Length {
    const fn memories(self) -> usize {
        match self {
            Self::Short => 3,
            Self::Medium => 10,
            Self::Long => 30,
        }
    }
}

struct Save {
    profile: Template,
    content: String,
    session: Option<Template>,
}

struct Recall {
    profile: Template,
    query: Template,
    length: Length,
}

struct Summary {
    profile: Template,
    session: Option<Template>,
}

fn compile_save(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: SaveConfig = config(step)?;
    let mut fields = Fields::default();
    let profile = fields.template("profileTemplate", &config.profile_template);
    let session = config.session_id.as_deref().and_then(|text| fields.template("sessionId", text));
    if config.content_variable.trim().is_empty() {
        fields.problem("contentVariable", "expected the name of a variable");
    }
    fields.finish(profile.map(|profile| Save { profile, content: config.content_variable, session }))
}

fn compile_recall(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: RecallConfig = config(step)?;
    let mut fields = Fields::default();
    let profile = fields.template("profileTemplate", &config.profile_template);
    let query = fields.template("queryTemplate", &config.query_template);
    fields.finish(profile.zip(query).map(|(profile, query)| Recall { profile, query, length: config.response_length }))
}

fn compile_summary(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: SummaryConfig = config(step)?;
    let mut fields = Fields::default();
    let profile = fields.template("profileTemplate", &config.profile_template);
    let session = config.session_id.as_deref().and_then(|text| fields.template("sessionId", text));
    fields.finish(profile.map(|profile| Summary { profile, session }))
}

/// Whose memory it is. Nobody in particular has none.
fn profile(context: &StepContext<'_>, template: &Template) -> StepResult<String> {
    let profile = own_name(context, template, LONGEST_PROFILE)?;
    Ok(profile.map_err(|why| StepFailure::new("invalid_profile", format!("`profileTemplate` {why}")))?)
}

async fn kept(context: &StepContext<'_>, profile: &str) -> StepResult<Vec<Kept<Memory>>> {
    let (store, tenant) = (&context.parts().store, context.run.tenant);
    Ok(context.run.patiently(|| async { Collection::<Memory>::of(&**store, tenant).list(Some(profile), None, MOST).await }).await?)
}

/// Keeps a text about somebody, once for each step.
pub async fn save(context: &StepContext<'_>, template: &Template, session: Option<String>, text: String) -> StepResult<()> {
    let profile = profile(context, template)?;
    let (store, tenant) = (&context.parts().store, context.run.tenant);
    let id = context.chosen("memory", || MemoryId::new(&context.parts().clock)).await;
    let memory = Memory { profile, session, text };
    let save = || async {
        match Collection::of(&**store, tenant).create(id, memory.clone(), context.now()).await {
            // Kept by ourselves, before the step's end was.
            Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    };
    Ok(context.run.patiently(save).await?)
}

/// What was kept about somebody that fits a question, one a line.
pub async fn recall(context: &StepContext<'_>, template: &Template, query: &str, length: Length) -> StepResult<String> {
    let profile = profile(context, template)?;
    let memories = kept(context, &profile).await?;
    let texts: Vec<&str> = memories.iter().map(|memory| memory.body.text.as_str()).collect();
    let found: Vec<&str> = ranked(query, &texts).into_iter().take(length.memories()).map(|at| texts[at]).collect();
    Ok(found.join("\n"))
}

#[async_trait]
impl StepBody for Save {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let session = self.session.as_ref().map(|session| super::text(context, session)).transpose()?;
        let text = context.variable(&self.content).map(text_of).unwrap_or_default();
        if text.trim().is_empty() || text.len() > LONGEST {
            let message = format!("`{}` holds {} bytes: expected 1 to {LONGEST}", self.content, text.len());
            return Err(StepFailure::new("invalid_memory", message).into());
        }
        save(context, &self.profile, session, text.clone()).await?;
        Ok(StepOutput::of(Value::String(text)))
    }
}

#[async_trait]
impl StepBody for Recall {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let query = super::text(context, &self.query)?;
        Ok(StepOutput::of(Value::String(recall(context, &self.profile, &query, self.length).await?)))
    }
}

#[async_trait]
impl StepBody for Summary {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let profile = profile(context, &self.profile)?;
        let session = self.session.as_ref().map(|session| super::text(context, session)).transpose()?;
        let memories = kept(context, &profile).await?;
        let wanted = memories.iter().filter(|memory| session.is_none() || memory.body.session == session);
        let texts: Vec<&str> = wanted.map(|memory| memory.body.text.as_str()).take(Length::Long.memories()).collect();
        Ok(StepOutput::of(Value::String(texts.join("\n"))))
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

/// The places of the texts that share a word with the query, the best first: each shared word counts by its rarity (the inverse document
/// frequency of BM25, Robertson and Zaragoza 2009); equals stay in their order.
#[expect(clippy::cast_precision_loss, reason = "a thousand texts at most")]
fn ranked(query: &str, texts: &[&str]) -> Vec<usize> {
    let wanted = words(query);
    let all: Vec<BTreeSet<String>> = texts.iter().map(|text| words(text)).collect();
    let mut holders: BTreeMap<&String, usize> = BTreeMap::new();
    for word in all.iter().flatten().filter(|word| wanted.contains(*word)) {
        *holders.entry(word).or_default() += 1;
    }
    let weight = |word: &String| {
        let holders = holders.get(word).copied().unwrap_or_default() as f64;
        (1.0 + (texts.len() as f64 - holders + 0.5) / (holders + 0.5)).ln()
    };
    let mut scored: Vec<(usize, f64)> = all
        .iter()
        .enumerate()
        .map(|(at, own)| (at, own.intersection(&wanted).map(weight).sum()))
        .filter(|(_, score)| *score > 0.0)
        .collect();
    scored.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    scored.into_iter().map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rarer_word_counts_more() {
        let texts = ["Ada likes tea in the morning", "Ada has a red bicycle", "Ada and the sea"];
        assert_eq!(ranked("the red thing of Ada", &texts), [1, 0, 2]);
        assert!(ranked("nothing here fits", &texts).is_empty());
        assert_eq!(ranked("TEA!", &texts), [0]);
    }
}
