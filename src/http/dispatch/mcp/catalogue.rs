//! Which tools a key may use: published flows and agents, under names that the protocol allows.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::http::dispatch::execute::DispatchRequest;
use crate::id::{AgentId, FlowId, TenantId};
use crate::model::{Caller, TargetKind};
use crate::store::{SavedFlow, SharedStore};

/// Something published, as a tool.
pub struct Offer {
    pub name: String,
    pub kind: TargetKind,
    pub flow: FlowId,
    pub description: String,
    pub schema: Map<String, Value>,
}

/// Most tools of a tenant; the newest are offered.
const MOST: u32 = 500;
/// Longest name, in bytes.
const LONGEST_NAME: usize = 64;

/// Everything that the caller may execute, agents first.
pub async fn offers(store: &SharedStore, caller: &Caller) -> Result<Vec<Offer>> {
    let (mut offers, mut taken) = (Vec::new(), HashSet::new());
    for (kind, scope) in [(TargetKind::Agent, "AGENTS:EXECUTE"), (TargetKind::Flow, "FLOWS:EXECUTE")] {
        if !caller.may(scope) {
            continue;
        }
        for saved in store.list_flows(caller.tenant, kind, None, None, MOST).await? {
            offers.extend(offer(store, caller.tenant, saved, &mut taken).await?);
        }
    }
    Ok(offers)
}

async fn offer(store: &SharedStore, tenant: TenantId, saved: SavedFlow, taken: &mut HashSet<String>) -> Result<Option<Offer>> {
    let Some(published) = saved.published else { return Ok(None) };
    let Some(version) = store.find_flow_version(tenant, published).await? else { return Ok(None) };
    let mut name = slug(&saved.name);
    if !taken.insert(name.clone()) {
        // Two names that differ in what the protocol does not allow.
        let suffix = saved.id.suffix();
        name = format!("{}_{}", name.chars().take(LONGEST_NAME - 9).collect::<String>(), &suffix[suffix.len() - 8..]);
        taken.insert(name.clone());
    }
    let described = ["inputSchema", "parametersSchema"].iter().find_map(|field| version.document.get(*field)).and_then(Value::as_object);
    let schema = described.filter(|schema| schema.get("type") == Some(&json!("object"))).cloned().unwrap_or_else(|| usual(saved.kind));
    let description = saved.description.unwrap_or_else(|| match saved.kind {
        TargetKind::Flow => format!("Runs the flow `{}`.", saved.name),
        TargetKind::Agent => format!("Asks the agent `{}`.", saved.name),
    });
    Ok(Some(Offer { name, kind: saved.kind, flow: saved.id, description, schema }))
}

/// What is taken when the document says nothing: any variables for a flow, a message for an agent.
fn usual(kind: TargetKind) -> Map<String, Value> {
    let schema = match kind {
        TargetKind::Flow => json!({ "type": "object", "additionalProperties": true }),
        TargetKind::Agent => json!({
            "type": "object",
            "properties": { "message": { "type": "string", "description": "What the agent is asked, with everything that it must know." } },
            "required": ["message"],
        }),
    };
    schema.as_object().cloned().unwrap_or_default()
}

/// A name of letters, digits, `_` and `-`.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars() {
        match letter {
            letter if letter.is_ascii_alphanumeric() || letter == '-' => slug.push(letter.to_ascii_lowercase()),
            _ if slug.ends_with('_') || slug.is_empty() => {}
            _ => slug.push('_'),
        }
    }
    let slug: String = slug.trim_end_matches('_').chars().take(LONGEST_NAME).collect();
    if slug.is_empty() { "tool".into() } else { slug }
}

impl Offer {
    /// The published version with these arguments, as a caller would dispatch it.
    pub fn request(&self, arguments: Map<String, Value>) -> DispatchRequest {
        let message = arguments.get("message").and_then(Value::as_str).map(str::to_owned);
        let message = message.or_else(|| (self.kind == TargetKind::Agent).then(|| Value::Object(arguments.clone()).to_string()));
        DispatchRequest {
            flow: (self.kind == TargetKind::Flow).then(|| json!({ "id": self.flow })),
            agent: (self.kind == TargetKind::Agent).then(|| json!({ "agentId": AgentId::of_flow(self.flow) })),
            version_id: Some("published".to_owned()).into(),
            messages: message.map(|message| json!([{ "role": "user", "content": message }])),
            inputs: Some(arguments).into(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::slug;

    #[test]
    fn names_are_made_of_what_the_protocol_allows() {
        for (name, expected) in [("Sales analysis", "sales_analysis"), ("  Größe / Q4! ", "gr_e_q4"), ("日本", "tool"), ("a-b_c", "a-b_c")]
        {
            assert_eq!(slug(name), expected, "{name}");
        }
        assert_eq!(slug(&"x".repeat(100)).len(), 64);
    }
}
