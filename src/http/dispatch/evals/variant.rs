//! A variant's document: the target with other prompts.

use serde_json::{Map, Value};

use super::Variant;
use crate::http::dispatch::{agent_document, document};
use crate::model::TargetKind;

impl Variant {
    /// Whether nothing differs, and nothing is named that could.
    fn is_plain(&self) -> bool {
        self.step.is_none() && self.changes().is_empty() && self.more.is_empty()
    }

    fn changes(&self) -> Map<String, Value> {
        let mut changes = self.config.clone();
        let texts = [("model", &self.model), ("systemPrompt", &self.system_prompt), ("userPrompt", &self.user_prompt)];
        changes.extend(texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?.into()))));
        changes.extend(self.temperature.map(|value| ("temperature".to_owned(), value.into())));
        changes
    }

    /// The document as this variant has it. `None`: the flow has no such prompt.
    pub(super) fn document(&self, kind: TargetKind, whole: &Value) -> Option<Value> {
        let changed = self.changed(kind, whole)?;
        self.more.iter().try_fold(changed, |document, variant| variant.document(kind, &document))
    }

    /// The document with the changes at this variant's own step.
    fn changed(&self, kind: TargetKind, whole: &Value) -> Option<Value> {
        let (mut changed, changes) = (whole.clone(), self.changes());
        if kind == TargetKind::Agent {
            if self.step.is_some() {
                return None;
            }
            let settings = changed.pointer_mut(agent_document::place(whole))?.as_object_mut()?;
            // Another name of the same would hide it.
            if changes.contains_key("systemPrompt") {
                settings.remove("instructions");
            }
            settings.extend(changes);
            return Some(changed);
        }
        let mut found = 0;
        for (path, action) in document::configs(whole) {
            let step = path.strip_suffix("/config").and_then(|step| whole.pointer(step));
            let is_named = |step: &Value, name: &str| ["id", "name"].iter().any(|key| step.get(*key).is_some_and(|own| own == name));
            let named = |name: &String| step.is_some_and(|step| is_named(step, name));
            if action != "prompt" || !self.step.as_ref().is_none_or(named) {
                continue;
            }
            if let Some(config) = changed.pointer_mut(&path).and_then(Value::as_object_mut) {
                config.extend(changes.clone());
                found += 1;
            }
        }
        (found > 0 || self.is_plain()).then_some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_variant_changes_the_prompts_it_names() {
        let prompt = |id: &str| json!({ "id": id, "type": "prompt", "config": { "model": "a", "userPrompt": "x" } });
        let flow = json!({ "name": "f", "steps": [prompt("one"), { "id": "s", "type": "set-variable", "config": {} }, prompt("two")] });
        let variant = Variant { model: Some("b".into()), step: Some("two".into()), ..Variant::default() };
        let changed = variant.document(TargetKind::Flow, &flow).unwrap();
        assert_eq!((&changed["steps"][0]["config"]["model"], &changed["steps"][2]["config"]["model"]), (&json!("a"), &json!("b")));
        assert_eq!(Variant { step: Some("none".into()), ..variant.clone() }.document(TargetKind::Flow, &flow), None);
        let both =
            Variant { more: vec![Variant { step: Some("one".into()), model: Some("c".into()), ..Variant::default() }], ..variant.clone() };
        let changed = both.document(TargetKind::Flow, &flow).unwrap();
        assert_eq!((&changed["steps"][0]["config"]["model"], &changed["steps"][2]["config"]["model"]), (&json!("c"), &json!("b")));
        let nothing = Variant { step: Some("none".into()), ..Variant::default() };
        assert_eq!(nothing.document(TargetKind::Flow, &flow), None);
        let agent = json!({ "name": "a", "config": { "model": "a", "instructions": "x" } });
        let variant = Variant { system_prompt: Some("y".into()), ..Variant::default() };
        assert_eq!(variant.document(TargetKind::Agent, &agent).unwrap()["config"], json!({ "model": "a", "systemPrompt": "y" }));
    }
}
