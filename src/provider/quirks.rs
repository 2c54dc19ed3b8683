//! How servers of one wire format differ. Data from the catalogue, so that a new server needs no code.

use serde::Deserialize;

/// Differences of a server, and of a model on it. Every field has the format's usual answer as its default.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quirks {
    /// openai: the field that limits the answer's length.
    pub max_tokens_field: MaxTokensField,
    /// openai: the server understands `top_k`.
    pub top_k: bool,
    /// openai: the server refuses `stream_options`.
    pub no_stream_options: bool,
    /// How reasoning is asked for.
    pub reasoning: ReasoningStyle,
    /// The model refuses temperature, top_p and penalties.
    pub fixed_sampling: bool,
    /// The most output tokens the model gives, where the format wants a limit in every request.
    pub max_output: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    #[default]
    MaxTokens,
    MaxCompletionTokens,
}

/// How a server is told to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasoningStyle {
    /// The format's own way: `reasoning_effort` (openai), a token budget (anthropic, gemini).
    #[default]
    Usual,
    /// openai: `reasoning: {effort | max_tokens}`, as OpenRouter has it.
    Object,
    /// anthropic: adaptive thinking with an effort; gemini: a thinking level.
    Level,
    /// The model has no such setting; the wish is left out.
    None,
}

impl Quirks {
    /// A model's differences on top of its server's.
    pub fn with(&self, model: &Self) -> Self {
        let usual = Self::default();
        let pick = |own: bool, server: bool| own || server;
        Self {
            max_tokens_field: if model.max_tokens_field == usual.max_tokens_field { self.max_tokens_field } else { model.max_tokens_field },
            top_k: pick(model.top_k, self.top_k),
            no_stream_options: pick(model.no_stream_options, self.no_stream_options),
            reasoning: if model.reasoning == usual.reasoning { self.reasoning } else { model.reasoning },
            fixed_sampling: pick(model.fixed_sampling, self.fixed_sampling),
            max_output: model.max_output.or(self.max_output),
        }
    }
}
