//! Vector steps: `generate-embedding`, `store-vector`, `vector-search`: texts found again by their meaning, as far as the model knows it.
//!
//! Vectors are kept with their texts, by collection; a search compares all of a collection, so it is exact. A step that is done again after a crash keeps nothing twice: what has no id of its own gets one of the step's, chosen once.

use async_trait::async_trait;
use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config, own_name, text, text_of};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::engine::embedding;
use crate::error::Problems;
use crate::expr::{Template, TemplateTree};
use crate::id::VectorId;
use crate::model::Step;
use crate::model::vector::Vector;
use crate::provider::{MOST_TEXTS, vector_value};
use crate::store::{Nearest, Put};
use crate::tool::Effect;

pub const EMBED: StepType = StepType {
    action: "generate-embedding",
    summary: "Turns a text, or each of a list of texts, into a vector.",
    schema: || schemars::schema_for!(EmbedConfig),
    compile: compile_embed,
};

pub const STORE: StepType = StepType {
    action: "store-vector",
    summary: "Keeps vectors with their texts, to be found by `vector-search`.",
    schema: || schemars::schema_for!(StoreConfig),
    compile: compile_store,
};

pub const SEARCH: StepType = StepType {
    action: "vector-search",
    summary: "Finds the kept texts that are nearest to a query.",
    schema: || schemars::schema_for!(SearchConfig),
    compile: compile_search,
};

/// The model that needs no key.
const OWN_MODEL: &str = "local/words";
/// Vectors that one step keeps.
const MOST: usize = 2_000;
/// Components of a vector.
const LONGEST: usize = 8_192;
/// Characters of a collection's name.
const LONGEST_NAME: usize = 200;
/// Bytes of a text that is kept with its vector.
const LONGEST_TEXT: usize = 32 * 1024;
/// The collection of a search that names none.
const DEFAULT_COLLECTION: &str = "default";
/// Found at most, and unless said otherwise.
const MOST_FOUND: u32 = 100;
const FOUND: u32 = 10;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GenerateEmbeddingConfig")]
struct EmbedConfig {
    /// A text; a template.
    #[serde(default)]
    text: Option<String>,
    /// Or the variable that holds a text or a list of texts, at most 256.
    #[serde(default)]
    input_source: Option<String>,
    /// `provider/model`; `local/words` when absent: it needs no key and compares words, not meanings.
    #[serde(default = "own_model", alias = "model")]
    embedding_model: String,
    /// Components of the vector, where the model can choose.
    #[serde(default)]
    dimensions: Option<u32>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StoreVectorConfig")]
struct StoreConfig {
    /// The variable that holds a vector, a list of vectors, or a list of `{vector, id?, text?, metadata?}`.
    vectors_source: String,
    /// The collection to keep them in; a template.
    destination: String,
    /// The variable that holds the text, or the texts, of the vectors.
    #[serde(default)]
    texts_source: Option<String>,
    /// Kept with each of them; strings in it are templates.
    #[serde(default)]
    metadata: Map<String, Value>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "VectorSearchConfig")]
struct SearchConfig {
    /// What is looked for; a template.
    #[serde(default)]
    query: Option<String>,
    /// Or the variable that holds its vector.
    #[serde(default)]
    vector_source: Option<String>,
    /// Where to look; a template. `default` when neither it nor `recordType` is given.
    #[serde(default, alias = "destination", alias = "source")]
    collection: Option<String>,
    /// Another name of `collection`, for vectors that were kept under a type of records.
    #[serde(default)]
    record_type: Option<String>,
    /// The model that made the collection's vectors; `local/words` when absent.
    #[serde(default = "own_model", alias = "model")]
    embedding_model: String,
    /// 1 to 100; 10 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u32>,
    /// Only what is at least so near: -1 to 1.
    #[serde(default)]
    threshold: Option<f32>,
    /// Only what has these members in its metadata; strings are templates.
    #[serde(default)]
    filter: Map<String, Value>,
}

fn own_model() -> String {
    OWN_MODEL.into()
}

enum Input {
    Text(Template),
    Variable(String),
}

struct Embed {
    input: Input,
    models: Vec<String>,
    dimensions: Option<u32>,
}

struct Store {
    vectors: String,
    texts: Option<String>,
    collection: Template,
    metadata: TemplateTree,
}

struct Search {
    input: Input,
    models: Vec<String>,
    collection: Template,
    limit: u32,
    threshold: Option<f32>,
    filter: TemplateTree,
}

/// A text in place, or the variable that holds what is wanted.
fn input(fields: &mut Fields, (name, text): (&str, Option<&str>), (source, variable): (&str, Option<String>)) -> Option<Input> {
    match (text, variable.filter(|source| source != name)) {
        (Some(text), None) => fields.template(name, text).map(Input::Text),
        (None, Some(variable)) if !variable.trim().is_empty() => Some(Input::Variable(variable)),
        _ => {
            fields.problem(name, format!("expected `{name}`, or the name of a variable as `{source}`"));
            None
        }
    }
}

fn compile_embed(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: EmbedConfig = config(step)?;
    let mut fields = Fields::default();
    let input = input(&mut fields, ("text", config.text.as_deref()), ("inputSource", config.input_source));
    if config.dimensions.is_some_and(|dimensions| !(1..=LONGEST).contains(&usize::try_from(dimensions).unwrap_or(usize::MAX))) {
        fields.problem("dimensions", format!("expected 1 to {LONGEST}"));
    }
    fields.finish(input.map(|input| Embed { input, models: vec![config.embedding_model], dimensions: config.dimensions }))
}

fn compile_store(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: StoreConfig = config(step)?;
    let mut fields = Fields::default();
    if config.vectors_source.trim().is_empty() {
        fields.problem("vectorsSource", "expected the name of a variable");
    }
    let collection = fields.template("destination", &config.destination);
    let metadata = fields.tree("metadata", &Value::Object(config.metadata));
    fields.finish(collection.zip(metadata).map(|(collection, metadata)| Store {
        vectors: config.vectors_source,
        texts: config.texts_source,
        collection,
        metadata,
    }))
}

fn compile_search(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: SearchConfig = config(step)?;
    let mut fields = Fields::default();
    let input = input(&mut fields, ("query", config.query.as_deref()), ("vectorSource", config.vector_source));
    let collection = match (&config.collection, &config.record_type) {
        (Some(_), Some(_)) => {
            fields.problem("recordType", "`collection` says where to look; give one of them");
            None
        }
        (Some(collection), None) => fields.template("collection", collection),
        (None, Some(kind)) => fields.template("recordType", kind),
        (None, None) => fields.template("collection", DEFAULT_COLLECTION),
    };
    let filter = fields.tree("filter", &Value::Object(config.filter));
    let limit = config.limit.unwrap_or(FOUND);
    if !(1..=MOST_FOUND).contains(&limit) {
        fields.problem("limit", format!("expected 1 to {MOST_FOUND}"));
    }
    if config.threshold.is_some_and(|threshold| !(-1.0..=1.0).contains(&threshold)) {
        fields.problem("threshold", "expected -1 to 1");
    }
    let (models, threshold) = (vec![config.embedding_model], config.threshold);
    fields.finish(input.zip(collection).zip(filter).map(|((input, collection), filter)| Search {
        input,
        models,
        collection,
        limit,
        threshold,
        filter,
    }))
}

/// Asks the model, once: the vectors are kept in the journal.
async fn embed(context: &StepContext<'_>, model: &str, texts: Vec<String>, dimensions: Option<u32>) -> StepResult<Vec<Vec<f32>>> {
    if texts.is_empty() || texts.len() > MOST_TEXTS || texts.iter().any(|text| text.trim().is_empty()) {
        let message = format!("{} texts to embed: expected 1 to {MOST_TEXTS}, none of them empty", texts.len());
        return Err(StepFailure::new("invalid_embedding_input", message).into());
    }
    let models = &context.parts().models;
    let resolved = models.resolve(model).and_then(|model| models.check(&model, &context.run.keys))?;
    let key = context.key("vectors");
    let (reserved, hold) = match context.recall(&key) {
        Some(_) => (None, None),
        None => {
            let worst = embedding::worst(&resolved, &texts);
            let limits = context.usage_limits().await?;
            (Some(context.reserve(worst)?), context.hold(&limits, worst).await?)
        }
    };
    let made: Vec<String> = context
        .effect(&key, Effect::Idempotent, || async {
            let answer = embedding::request(context.parts(), &resolved, texts, dimensions).await;
            let (embedded, spent) = answer.map_err(|error| {
                hold.iter().for_each(|hold| hold.note(0, 0));
                let named = crate::error::Error::from(error.clone());
                StepFailure {
                    retryable: error.class.remedy().retry,
                    retry_after: error.retry_after,
                    ..StepFailure::new(named.code().to_owned(), error.message.clone())
                }
            })?;
            hold.iter().for_each(|hold| hold.note(spent.cost, spent.tokens()));
            context.bill(&spent, embedding::billed(&resolved, &spent, &embedded.usage));
            Ok(embedded.vectors.iter().map(|vector| pack(vector)).collect())
        })
        .await?;
    drop(reserved);
    if let Some(hold) = hold {
        hold.settle().await;
    }
    made.iter()
        .map(|vector| unpack(vector).ok_or_else(|| StepFailure::new("journal_unreadable", "a vector cannot be read").into()))
        .collect()
}

fn pack(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|part| part.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn unpack(text: &str) -> Option<Vec<f32>> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let (parts, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| parts.iter().map(|part| f32::from_le_bytes(*part)).collect())
}

fn vector_of(value: &Value) -> Option<Vec<f32>> {
    let parts = value.as_array().filter(|parts| !parts.is_empty() && parts.len() <= LONGEST)?;
    #[expect(clippy::cast_possible_truncation, reason = "vectors are kept as floats of 32 bits")]
    parts.iter().map(|part| part.as_f64().map(|part| part as f32).filter(|part| part.is_finite())).collect()
}

fn collection(context: &StepContext<'_>, template: &Template) -> StepResult<String> {
    let name = own_name(context, template, LONGEST_NAME)?;
    Ok(name.map_err(|why| StepFailure::new("invalid_collection", format!("the collection's name {why}")))?)
}

#[async_trait]
impl StepBody for Embed {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let value = match &self.input {
            Input::Text(text) => context.fill(text)?,
            Input::Variable(name) => context.variable(name).cloned().unwrap_or_default(),
        };
        let (texts, many) = match value {
            Value::Array(texts) => (texts.iter().map(text_of).collect(), true),
            other => (vec![text_of(&other)], false),
        };
        let vectors = embed(context, &self.models[0], texts, self.dimensions).await?;
        let mut values: Vec<Value> = vectors.iter().map(|vector| vector_value(vector)).collect();
        let value = if many { Value::Array(values) } else { values.pop().unwrap_or_default() };
        Ok(StepOutput::of(value))
    }

    fn models(&self) -> &[String] {
        &self.models
    }

    fn model_field(&self) -> &'static str {
        "embeddingModel"
    }
}

/// One of what is to be kept.
#[derive(Deserialize)]
struct Given {
    vector: Value,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl Store {
    fn given(&self, context: &StepContext<'_>) -> StepResult<Vec<Given>> {
        let wrong = |why: &str| StepFailure::new("invalid_vectors", format!("`{}`: {why}", self.vectors));
        let value = context.variable(&self.vectors).cloned().unwrap_or_default();
        let items = match &value {
            Value::Array(items) if items.first().is_some_and(|item| !item.is_number()) => items.clone(),
            Value::Array(_) => vec![value.clone()],
            Value::Object(_) => vec![value.clone()],
            _ => return Err(wrong("expected a vector, a list of vectors, or a list of {vector, id, text, metadata}").into()),
        };
        if items.len() > MOST {
            return Err(wrong(&format!("{} vectors at once: expected {MOST} at most", items.len())).into());
        }
        let texts: Vec<Option<String>> = match self.texts.as_ref().and_then(|name| context.variable(name)) {
            Some(Value::Array(texts)) => texts.iter().map(|text| Some(text_of(text))).collect(),
            Some(text) => vec![Some(text_of(text))],
            None => Vec::new(),
        };
        if !texts.is_empty() && texts.len() != items.len() {
            return Err(wrong(&format!("{} vectors and {} texts", items.len(), texts.len())).into());
        }
        let given = items.into_iter().enumerate().map(|(at, item)| {
            let mut given = match item {
                Value::Object(_) => serde_json::from_value::<Given>(item).map_err(|error| wrong(&error.to_string()))?,
                vector => Given { vector, id: None, text: None, metadata: Map::new() },
            };
            given.text = given.text.or_else(|| texts.get(at).cloned().flatten());
            if given.text.as_ref().is_some_and(|text| text.len() > LONGEST_TEXT) {
                return Err(wrong(&format!("a text of more than {LONGEST_TEXT} bytes")));
            }
            if given.id.as_ref().is_some_and(|id| id.is_empty() || id.len() > 200 || id.contains(char::is_control)) {
                return Err(wrong("an `id` has 1 to 200 characters"));
            }
            Ok(given)
        });
        Ok(given.collect::<Result<_, StepFailure>>()?)
    }
}

#[async_trait]
impl StepBody for Store {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let collection = collection(context, &self.collection)?;
        let metadata = context.fill_tree(&self.metadata)?.as_object().cloned().unwrap_or_default();
        let given = self.given(context)?;
        let count = given.len();
        let new = || (0..count).map(|_| VectorId::new(&context.parts().clock)).collect::<Vec<_>>();
        let ids = context.chosen(&format!("ids/{count}"), new).await;
        let mut vectors = Vec::with_capacity(count);
        for (id, given) in ids.into_iter().zip(given) {
            let parts = vector_of(&given.vector).ok_or_else(|| {
                StepFailure::new("invalid_vectors", format!("`{}`: a vector is a list of 1 to {LONGEST} numbers", self.vectors))
            })?;
            let metadata = metadata.clone().into_iter().chain(given.metadata).collect();
            vectors.push(Vector { id, collection: collection.clone(), name: given.id, parts, text: given.text, metadata });
        }
        let (store, tenant) = (&context.parts().store, context.run.tenant);
        let kept = match context.run.patiently(|| store.put_vectors(tenant, vectors.clone())).await? {
            Put::Kept(kept) => kept,
            Put::TooMany(most) => {
                let message = format!("the collection `{collection}` would have more than {most} vectors; none of these was kept");
                return Err(StepFailure::new("collection_too_large", message).into());
            }
        };
        Ok(StepOutput::of(json!({ "collection": collection, "count": kept.len(), "ids": kept })))
    }
}

#[async_trait]
impl StepBody for Search {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let collection = collection(context, &self.collection)?;
        let filter = context.fill_tree(&self.filter)?.as_object().cloned().unwrap_or_default();
        let query = match &self.input {
            Input::Text(query) => embed(context, &self.models[0], vec![text(context, query)?], None).await?.pop().unwrap_or_default(),
            Input::Variable(name) => context
                .variable(name)
                .and_then(vector_of)
                .ok_or_else(|| StepFailure::new("invalid_vectors", format!("`{name}` is not a list of numbers")))?,
        };
        let (store, tenant) = (&context.parts().store, context.run.tenant);
        let query = Nearest { collection, parts: query, filter, threshold: self.threshold, limit: self.limit };
        let found = context.run.patiently(|| store.nearest_vectors(tenant, query.clone())).await?;
        let told = found.into_iter().map(|found| {
            let id = found.name.unwrap_or_else(|| found.id.to_string());
            json!({ "id": id, "score": (f64::from(found.near) * 1e6).round() / 1e6, "text": found.text, "metadata": found.metadata })
        });
        Ok(StepOutput::of(Value::Array(told.collect())))
    }

    fn models(&self) -> &[String] {
        match self.input {
            Input::Text(_) => &self.models,
            Input::Variable(_) => &[],
        }
    }

    fn model_field(&self) -> &'static str {
        "embeddingModel"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_vector_is_the_same_vector() {
        let vector = [0.0, -1.5, f32::MIN_POSITIVE, 1.0 / 3.0];
        assert_eq!(unpack(&pack(&vector)).unwrap(), vector);
        assert_eq!(unpack("AAA="), None, "not whole floats");
        assert_eq!(vector_of(&json!([1, "x"])), None);
        assert_eq!(vector_of(&json!([1, 2.5])), Some(vec![1.0, 2.5]));
    }
}
