//! Embeddings: texts into vectors.
//!
//! Two vendors' formats and one that is built in. Sources: platform.openai.com/docs/api-reference/embeddings,
//! ai.google.dev/api/embeddings.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::completion::Usage;
use super::error::{Class, ProviderError};
use super::estimate;
use super::{ChatRequest, ProviderCall};
use crate::offload::give_way;

/// Texts of one request.
pub const MOST_TEXTS: usize = 256;
/// Components of a vector of `local/words`.
const OWN_DIMENSIONS: usize = 256;

/// Texts to embed. The call says whom to ask; its conversation is empty.
pub struct EmbedCall {
    pub call: ProviderCall,
    pub texts: Vec<String>,
    /// Components wanted, where the model can choose.
    pub dimensions: Option<u32>,
}

/// Vectors, one for each text, in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    pub usage: Usage,
}

impl EmbedCall {
    pub(super) fn new(mut call: ProviderCall, texts: Vec<String>, dimensions: Option<u32>) -> Self {
        call.request = Arc::new(ChatRequest::default());
        Self { call, texts, dimensions }
    }

    fn estimated(&self) -> Usage {
        Usage { input: estimate::tokens(self.texts.iter().map(String::len).sum()), estimated: true, ..Usage::default() }
    }

    /// Every text has its vector, and all of them are of one length.
    fn checked(&self, vectors: Vec<Vec<f32>>, usage: Option<u64>) -> Result<Embedded, ProviderError> {
        let length = vectors.first().map_or(0, Vec::len);
        if vectors.len() != self.texts.len() || length == 0 || vectors.iter().any(|vector| vector.len() != length) {
            return Err(malformed("the answer has not one vector for each text"));
        }
        let usage = usage.map_or_else(|| self.estimated(), |input| Usage { input, ..Usage::default() });
        Ok(Embedded { vectors, usage })
    }
}

/// Parses a body with vectors, which may be large.
fn read_answer<T: DeserializeOwned>(body: &Bytes) -> Result<T, ProviderError> {
    give_way(body.len(), || serde_json::from_slice(body))
        .map_err(|error| malformed(format!("the answer is not a list of embeddings: {error}")))
}

fn malformed(why: impl Into<String>) -> ProviderError {
    ProviderError::new(Class::Malformed, why.into())
}

/// OpenAI's body.
pub(super) fn openai_request(call: &EmbedCall) -> Value {
    let mut body = json!({ "model": call.call.model, "input": call.texts, "encoding_format": "float" });
    if let Some(dimensions) = call.dimensions {
        body["dimensions"] = dimensions.into();
    }
    body
}

pub(super) fn openai_answer(call: &EmbedCall, body: &Bytes) -> Result<Embedded, ProviderError> {
    #[derive(Deserialize)]
    struct Answer {
        data: Vec<Item>,
        usage: Option<Told>,
    }
    #[derive(Deserialize)]
    struct Item {
        index: Option<usize>,
        embedding: Vec<f32>,
    }
    #[derive(Deserialize)]
    struct Told {
        prompt_tokens: u64,
    }
    let mut answer: Answer = read_answer(body)?;
    answer.data.sort_by_key(|item| item.index);
    call.checked(answer.data.into_iter().map(|item| item.embedding).collect(), answer.usage.map(|told| told.prompt_tokens))
}

/// Gemini's body.
pub(super) fn gemini_request(call: &EmbedCall) -> Value {
    let model = format!("models/{}", call.call.model);
    let one = |text: &String| {
        let mut request = json!({ "model": model, "content": { "parts": [{ "text": text }] } });
        if let Some(dimensions) = call.dimensions {
            request["outputDimensionality"] = dimensions.into();
        }
        request
    };
    json!({ "requests": call.texts.iter().map(one).collect::<Vec<_>>() })
}

pub(super) fn gemini_answer(call: &EmbedCall, body: &Bytes) -> Result<Embedded, ProviderError> {
    #[derive(Deserialize)]
    struct Answer {
        embeddings: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        values: Vec<f32>,
    }
    let answer: Answer = read_answer(body)?;
    call.checked(answer.embeddings.into_iter().map(|item| item.values).collect(), None)
}

/// `local/words`: needs no key and knows no meanings. Each word adds one to a component that its hash chooses (feature hashing, Weinberger et al.
/// 2009), and the sum is scaled to length one: texts with the same words are near.
pub(super) fn own(call: &EmbedCall) -> Embedded {
    Embedded { vectors: call.texts.iter().map(|text| hashed(text)).collect(), usage: call.estimated() }
}

fn hashed(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0_f32; OWN_DIMENSIONS];
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        let hash = fnv(word.to_lowercase().as_bytes());
        let place = usize::try_from(hash % OWN_DIMENSIONS as u64).unwrap_or(0);
        // The sign keeps words that share a component from always adding up.
        vector[place] += if hash & (1 << 63) == 0 { 1.0 } else { -1.0 };
    }
    let length = vector.iter().map(|part| part * part).sum::<f32>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|part| *part /= length);
    }
    vector
}

/// FNV-1a, 64 bits: the same on every machine and in every version.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A list of numbers as the journal and templates hold it.
pub fn to_value(vector: &[f32]) -> Value {
    Value::Array(vector.iter().map(|part| serde_json::Number::from_f64(f64::from(*part)).map_or(Value::Null, Value::Number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_the_same_words_are_near() {
        // They have length one.
        let cosine = |one: &[f32], other: &[f32]| one.iter().zip(other).map(|(one, other)| one * other).sum::<f32>();
        let [one, same, other] = ["Red wine, dry", "a dry red wine", "the sea at night"].map(hashed);
        assert!(cosine(&one, &same) > 0.7, "{}", cosine(&one, &same));
        assert!(cosine(&one, &other).abs() < 0.4, "{}", cosine(&one, &other));
        assert!((cosine(&one, &one) - 1.0).abs() < 1e-5);
    }
}
