//! `POST /v1/embeddings`: vectors of texts. They are no executions; metrics and traces tell of them.

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::target::{no_such_model, saved_name};
use super::{TAG, about};
use crate::engine::Engine;
use crate::error::{Error, Problems, Result};
use crate::http::extract::Body;
use crate::http::scope::{FlowsExecute, Scoped};
use crate::http::{AppState, admission};

/// Texts of one request.
const MAX_TEXTS: usize = 2_048;
/// Components of a vector.
const MAX_DIMENSIONS: u32 = 8_192;

pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/embeddings", post_with(create, about("createEmbedding", TAG, "Create a vector of each of one or more texts")))
}

/// The body of `POST /v1/embeddings`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "EmbeddingRequest")]
struct EmbeddingRequest {
    /// `provider/model`, or another name that Dispatch knows; `local/words` needs no key.
    model: String,
    /// A text, or a list of at most 2,048.
    #[schemars(with = "EmbeddingInput")]
    input: Value,
    /// `float` (the default) or `base64`: 32-bit floats, lowest byte first.
    #[serde(default)]
    encoding_format: Option<EncodingFormat>,
    /// Components of each vector, where the model can choose.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8192))]
    dimensions: Option<u32>,
    /// Everything else; `user` is taken.
    #[serde(flatten)]
    #[schemars(skip)]
    other: Map<String, Value>,
}

/// What is embedded, for the API document.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "EmbeddingInput")]
#[expect(dead_code, reason = "describes what `input` holds")]
enum EmbeddingInput {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EmbeddingEncodingFormat")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

/// A vector of each text, in their order.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "EmbeddingList")]
struct EmbeddingList {
    /// Always `list`.
    object: &'static str,
    data: Vec<Embedding>,
    /// The model that was asked.
    model: String,
    usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Embedding {
    /// Always `embedding`.
    object: &'static str,
    /// The text's position, from 0.
    index: usize,
    embedding: Vector,
}

/// A list of numbers, or their bytes.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "EmbeddingVector")]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Debug, Serialize, JsonSchema)]
struct EmbeddingUsage {
    prompt_tokens: u64,
    total_tokens: u64,
}

impl EmbeddingRequest {
    /// The texts; every fault of the request at once.
    fn texts(&self) -> Result<Vec<String>> {
        let mut problems = Problems::default();
        for name in self.other.iter().filter(|(name, value)| *name != "user" && !value.is_null()).map(|(name, _)| name) {
            problems.add(format!("/{}", crate::error::pointer_token(name)), format!("`{name}` cannot be honoured here; leave it out"));
        }
        if self.dimensions.is_some_and(|dimensions| !(1..=MAX_DIMENSIONS).contains(&dimensions)) {
            problems.add("/dimensions", format!("expected 1 to {MAX_DIMENSIONS}"));
        }
        let texts = match &self.input {
            Value::String(text) => vec![text.clone()],
            Value::Array(items) if (1..=MAX_TEXTS).contains(&items.len()) => {
                items.iter().enumerate().filter_map(|(index, item)| text_of(index, item, &mut problems)).collect()
            }
            _ => {
                problems.add("/input", format!("expected a text, or a list of 1 to {MAX_TEXTS} texts"));
                Vec::new()
            }
        };
        if texts.iter().any(|text| text.trim().is_empty()) {
            problems.add("/input", "a text is empty");
        }
        problems.into_result().map(|()| texts)
    }
}

fn text_of(index: usize, item: &Value, problems: &mut Problems) -> Option<String> {
    let text = item.as_str().map(str::to_owned);
    if text.is_none() {
        problems
            .add(format!("/input/{index}"), "expected a text; numbers of tokens mean something to one model only, so send the text itself");
    }
    text
}

async fn create(caller: Scoped<FlowsExecute>, State(engine): State<Engine>, body: Body<EmbeddingRequest>) -> Result<Json<EmbeddingList>> {
    let request = body.value;
    let texts = request.texts()?;
    if saved_name(&request.model).is_some() {
        return Err(no_such_model("a saved agent or flow makes no vectors; name a model for embeddings"));
    }
    engine.parts().models.resolve(&request.model).map_err(|error| no_such_model(error.message()))?;
    let whose = (caller.tenant, caller.key_id());
    admission::admit(&engine, whose, None).await?;
    let (embedded, model) = engine.embed(whose, &request.model, &texts, request.dimensions).await?;
    let wanted = request.dimensions.and_then(|dimensions| usize::try_from(dimensions).ok());
    let length = embedded.vectors.first().map_or(0, Vec::len);
    if wanted.is_some_and(|wanted| wanted != length) {
        let message = format!("`{}` makes vectors of {length} components and cannot choose; leave `dimensions` out", model.name());
        return Err(Error::invalid_at("/dimensions", message));
    }
    let format = request.encoding_format.unwrap_or_default();
    let data = embedded.vectors.into_iter().enumerate();
    let data = data.map(|(index, vector)| Embedding { object: "embedding", index, embedding: encoded(vector, format) }).collect();
    let tokens = embedded.usage.input;
    let usage = EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens };
    Ok(Json(EmbeddingList { object: "list", data, model: model.name().to_string(), usage }))
}

fn encoded(vector: Vec<f32>, format: EncodingFormat) -> Vector {
    match format {
        EncodingFormat::Float => Vector::Numbers(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|part| part.to_le_bytes()).collect();
            Vector::Base64(STANDARD.encode(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pointers(body: Value) -> Vec<String> {
        let request: EmbeddingRequest = serde_json::from_value(body).unwrap();
        let problems = request.texts().err().map(|error| error.problems().to_vec()).unwrap_or_default();
        problems.into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn only_texts_are_embedded() {
        assert_eq!(pointers(json!({ "model": "m", "input": ["a", "b"], "user": "ada" })), Vec::<String>::new());
        assert_eq!(pointers(json!({ "model": "m", "input": [] })), ["/input"]);
        assert_eq!(pointers(json!({ "model": "m", "input": ["a", [1, 2]], "dimensions": 0 })), ["/dimensions", "/input/1"]);
        assert_eq!(pointers(json!({ "model": "m", "input": " ", "made_up": 1 })), ["/made_up", "/input"]);
    }

    #[test]
    fn bytes_of_a_vector_begin_with_the_lowest() {
        let Vector::Base64(text) = encoded(vec![1.0, -2.0], EncodingFormat::Base64) else { panic!("not base64") };
        assert_eq!(text, "AACAPwAAAMA=");
    }
}
