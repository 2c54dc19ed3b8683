//! How servers of one wire format differ. Data from the catalogue, so that a new server needs no code.

use serde::Deserialize;

/// Differences of a server, and of a model on it. What a file leaves out is the format's usual answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Quirks {
    /// openai: the field that limits the answer's length.
    pub max_tokens_field: MaxTokensField,
    /// openai: the server understands `top_k`.
    pub top_k: bool,
    /// openai: the server refuses `stream_options`.
    pub no_stream_options: bool,
    /// How reasoning is asked for.
    pub reasoning: ReasoningStyle,
    /// The words for an effort that are taken; empty when nobody has stated them.
    pub efforts: Vec<String>,
    /// The model refuses temperature, top_p and penalties.
    pub fixed_sampling: bool,
    /// The server refuses penalties.
    pub no_penalties: bool,
    /// The model refuses texts that end the answer.
    pub no_stop: bool,
    /// Tools together with a JSON mode or schema are refused.
    pub no_json_with_tools: bool,
    /// JSON schemas are refused; a JSON mode may be there.
    pub no_json_schema: bool,
    /// A user's message right after a tool's is refused.
    pub no_user_after_tool: bool,
    /// Ids of tool calls are nine letters and digits.
    pub short_call_ids: bool,
    /// openai: how a file is sent.
    pub file_form: FileForm,
    /// openai: the server accepts videos, as `video_url` parts.
    pub video_url: bool,
    /// gemini: the path in which models are found.
    pub gemini_path: GeminiPath,
    /// The most tokens that a picture counts for.
    pub image_tokens: Option<u32>,
    /// The most output tokens the model gives, where the format wants a limit in every request.
    pub max_output: Option<u32>,
}

/// The quirks of a file: only those that it names.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuirkOverrides {
    max_tokens_field: Option<MaxTokensField>,
    top_k: Option<bool>,
    no_stream_options: Option<bool>,
    reasoning: Option<ReasoningStyle>,
    efforts: Option<Vec<String>>,
    fixed_sampling: Option<bool>,
    no_penalties: Option<bool>,
    no_stop: Option<bool>,
    no_json_with_tools: Option<bool>,
    no_json_schema: Option<bool>,
    no_user_after_tool: Option<bool>,
    short_call_ids: Option<bool>,
    file_form: Option<FileForm>,
    video_url: Option<bool>,
    gemini_path: Option<GeminiPath>,
    image_tokens: Option<u32>,
    max_output: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    #[default]
    MaxTokens,
    MaxCompletionTokens,
}

/// How a server is asked to think.
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

/// How a file is sent in the openai format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileForm {
    /// `{"type": "file", "file": {...}}`.
    #[default]
    Usual,
    /// `{"type": "document_url", "document_url": ...}`, as Mistral has it.
    DocumentUrl,
}

/// Where the gemini format finds its models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeminiPath {
    /// `/v1beta/models/{model}`.
    #[default]
    Usual,
    /// `/models/{model}` below the base URL, as Vertex AI has it.
    Plain,
}

impl Quirks {
    /// The differences of a server with those of one of its models on top.
    pub fn of(server: &QuirkOverrides, model: Option<&QuirkOverrides>) -> Self {
        let layers = [model, Some(server)];
        fn pick<T: Clone>(layers: [Option<&QuirkOverrides>; 2], field: impl Fn(&QuirkOverrides) -> &Option<T>) -> Option<T> {
            layers.into_iter().flatten().find_map(|layer| field(layer).clone())
        }
        Self {
            max_tokens_field: pick(layers, |layer| &layer.max_tokens_field).unwrap_or_default(),
            top_k: pick(layers, |layer| &layer.top_k).unwrap_or_default(),
            no_stream_options: pick(layers, |layer| &layer.no_stream_options).unwrap_or_default(),
            reasoning: pick(layers, |layer| &layer.reasoning).unwrap_or_default(),
            efforts: pick(layers, |layer| &layer.efforts).unwrap_or_default(),
            fixed_sampling: pick(layers, |layer| &layer.fixed_sampling).unwrap_or_default(),
            no_penalties: pick(layers, |layer| &layer.no_penalties).unwrap_or_default(),
            no_stop: pick(layers, |layer| &layer.no_stop).unwrap_or_default(),
            no_json_with_tools: pick(layers, |layer| &layer.no_json_with_tools).unwrap_or_default(),
            no_json_schema: pick(layers, |layer| &layer.no_json_schema).unwrap_or_default(),
            no_user_after_tool: pick(layers, |layer| &layer.no_user_after_tool).unwrap_or_default(),
            short_call_ids: pick(layers, |layer| &layer.short_call_ids).unwrap_or_default(),
            file_form: pick(layers, |layer| &layer.file_form).unwrap_or_default(),
            video_url: pick(layers, |layer| &layer.video_url).unwrap_or_default(),
            gemini_path: pick(layers, |layer| &layer.gemini_path).unwrap_or_default(),
            image_tokens: pick(layers, |layer| &layer.image_tokens),
            max_output: pick(layers, |layer| &layer.max_output),
        }
    }

    /// Whether the word for an effort is known to be taken.
    pub fn takes_effort(&self, word: &str) -> bool {
        self.efforts.iter().any(|known| known == word)
    }

    /// Whether the word for an effort is known to be refused.
    pub fn refuses_effort(&self, word: &str) -> bool {
        !self.efforts.is_empty() && !self.takes_effort(word)
    }
}
