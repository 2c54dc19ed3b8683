//! What a wire format takes, as data. [`prepare`](super::prepare) shapes a conversation by these rules before a
//! converter writes it, so that converters stay free of special cases.
//!
//! Sources: the vendors' references and the errors that they answer with; each wire's rules name theirs.

/// The limits of a wire format.
#[derive(Debug, Clone, Copy)]
pub struct WireRules {
    /// Names of tools.
    pub tool_name: NameRule,
    /// Ids of tool calls.
    pub call_id: IdRule,
    /// Longest description of a tool, in characters.
    pub max_description: usize,
    /// The first message must be a user's.
    pub user_first: bool,
    /// Texts of white space only are refused.
    pub no_blank_text: bool,
    /// Media types of pictures that are sent as data; empty for any.
    pub images: &'static [&'static str],
    /// Pictures may have a `detail`.
    pub image_detail: bool,
    /// Media types of files that are sent as data; empty for any. A text file of another type is sent as text.
    pub files: &'static [&'static str],
    /// Audio can be sent.
    pub audio: bool,
    /// Videos can be sent.
    pub video: bool,
    /// URL schemes that the server fetches pictures and files from; empty for any.
    pub url_schemes: &'static [&'static str],
    /// How JSON answers are asked for.
    pub json: JsonSupport,
    /// Settings that the format does not have, by the names that callers use.
    pub unknown_settings: &'static [&'static str],
    /// A model that thinks wants the signed thought behind every open tool call.
    pub signed_thoughts: bool,
}

/// Which names of tools a wire format takes.
#[derive(Debug, Clone, Copy)]
pub struct NameRule {
    pub max_len: usize,
    /// Characters beside ASCII letters, digits and `_`.
    pub extra: &'static str,
    /// The first character is a letter or `_`.
    pub letter_first: bool,
}

/// Which ids of tool calls a wire format takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdRule {
    /// Any text of at most so many bytes.
    Any { max_len: usize },
    /// ASCII letters, digits, `_` and `-`.
    Plain { max_len: usize },
}

/// How a wire format asks for JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonSupport {
    /// With a JSON mode and with schemas.
    Native,
    /// With schemas that are enforced (`strict`); otherwise by an instruction.
    StrictSchema,
    /// By an instruction only.
    Instruction,
}

impl WireRules {
    /// Of [`files`](Self::files): no file can be sent as data.
    pub const NO_FILES: &'static [&'static str] = &[""];

    /// For [`url_schemes`](Self::url_schemes): URLs of the web.
    pub const WEB: &'static [&'static str] = &["http", "https"];

    /// Rules of a format that takes everything as it is.
    pub const LENIENT: Self = Self {
        tool_name: NameRule { max_len: 128, extra: "-.:/", letter_first: false },
        call_id: IdRule::Any { max_len: 256 },
        max_description: usize::MAX,
        user_first: false,
        no_blank_text: false,
        images: &[],
        image_detail: true,
        files: &[],
        audio: true,
        video: true,
        url_schemes: &[],
        json: JsonSupport::Native,
        unknown_settings: &[],
        signed_thoughts: false,
    };
}
