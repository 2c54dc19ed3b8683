//! Names of tools as a wire format takes them, and back: the model calls a tool by the name that it was sent.

use std::collections::{HashMap, HashSet};

use super::Adjustment;
use crate::provider::chat::ChatRequest;
use crate::provider::rules::{NameRule, WireRules};

/// The names that were changed, from those sent to those of the caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct ToolNames(HashMap<String, String>);

impl ToolNames {
    /// Writes the names of the tools, and of the calls and results in the history, as the format takes them. Clips descriptions.
    pub fn fit(request: &mut ChatRequest, rules: &WireRules, adjustments: &mut Vec<Adjustment>) -> Self {
        let mut sent: HashMap<String, String> = HashMap::new();
        let mut taken: HashSet<String> =
            request.tools.iter().filter(|tool| fits(&tool.name, rules.tool_name)).map(|tool| tool.name.clone()).collect();
        let called = request.messages.iter().flat_map(|message| &message.tool_calls).map(|call| &call.name);
        let answered = request.messages.iter().filter_map(|message| message.tool_name.as_ref());
        for name in request.tools.iter().map(|tool| &tool.name).chain(called).chain(answered) {
            if fits(name, rules.tool_name) || sent.contains_key(name) {
                continue;
            }
            let fit = unique(&fit_name(name, rules.tool_name), rules.tool_name, &mut taken);
            sent.insert(name.clone(), fit);
        }
        for tool in &mut request.tools {
            rename(&mut tool.name, &sent);
            if tool.description.chars().count() > rules.max_description {
                tool.description = tool.description.chars().take(rules.max_description.saturating_sub(1)).chain(['…']).collect();
                let reason = format!("the description of `{}` is longer than {} characters", tool.name, rules.max_description);
                adjustments.push(Adjustment::mapped("tools", reason));
            }
        }
        for message in &mut request.messages {
            message.tool_calls.iter_mut().for_each(|call| rename(&mut call.name, &sent));
            message.tool_name.iter_mut().for_each(|name| rename(name, &sent));
        }
        Self(sent.into_iter().map(|(name, fit)| (fit, name)).collect())
    }

    /// The caller's name of a tool that the model called.
    pub fn original(&self, name: String) -> String {
        self.0.get(&name).cloned().unwrap_or(name)
    }
}

fn rename(name: &mut String, sent: &HashMap<String, String>) {
    if let Some(fit) = sent.get(name) {
        name.clone_from(fit);
    }
}

fn is_taken_letter(letter: char, rule: NameRule) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_' || rule.extra.contains(letter)
}

fn starts_well(name: &str, rule: NameRule) -> bool {
    !rule.letter_first || name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_')
}

fn fits(name: &str, rule: NameRule) -> bool {
    !name.is_empty() && name.len() <= rule.max_len && name.chars().all(|letter| is_taken_letter(letter, rule)) && starts_well(name, rule)
}

fn fit_name(name: &str, rule: NameRule) -> String {
    let letters = name.chars().map(|letter| if is_taken_letter(letter, rule) { letter } else { '_' });
    let mut fit: String = letters.take(rule.max_len).collect();
    if fit.is_empty() || !starts_well(&fit, rule) {
        fit.insert(0, '_');
        fit.truncate(rule.max_len);
    }
    fit
}

fn unique(name: &str, rule: NameRule, taken: &mut HashSet<String>) -> String {
    let mut fit = name.to_owned();
    let mut number = 1u32;
    while !taken.insert(fit.clone()) {
        number += 1;
        let ending = format!("_{number}");
        // The name is ASCII by now.
        let kept = name.get(..rule.max_len.saturating_sub(ending.len()).min(name.len())).unwrap_or(name);
        fit = format!("{kept}{ending}");
    }
    fit
}
