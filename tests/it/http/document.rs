//! The API document: complete, legal, and the one that is checked in.

use std::collections::BTreeSet;
use std::path::Path;

use dispatch::engine::step;
use dispatch::http::openapi::{document, surfaces, text};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};

#[test]
fn the_snapshot_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/dispatch.json");
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text(), "the API changed: look at it with `dispatch openapi --out openapi/dispatch.json` and git diff openapi/");
}

#[test]
fn every_mounted_route_is_documented() {
    let (router, document) = surfaces(|routes| routes);
    let documented: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    // The router's debug form lists its patterns; nothing else in it begins with a slash but the fallback's own "/".
    let form = format!("{router:?}");
    let mounted: BTreeSet<&str> =
        form.split('"').filter(|text| text.len() > 1 && text.starts_with('/') && !text.contains("__private")).collect();
    assert!(mounted.len() > 10, "{form}");
    assert_eq!(mounted, documented);
}

#[test]
fn every_operation_is_named_and_its_parts_are_documented() {
    let document = document();
    let mut names = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let at = format!("{method} {path}");
            assert!(names.insert(operation["operationId"].as_str().unwrap_or_else(|| panic!("{at} has no name")).to_owned()), "{at}");
            assert!(operation["summary"].is_string(), "{at}");
            assert!(operation["description"].as_str().is_some_and(|text| text.len() > 10), "{at} has no description");
            let tags = document["tags"].as_array().unwrap();
            let described = |name: &Value| tags.iter().any(|tag| tag["name"] == *name && tag["description"].is_string());
            assert!(operation["tags"].as_array().unwrap().iter().all(described), "{at}");
            let params: BTreeSet<&str> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|param| param["in"] == "path")
                .map(|param| param["name"].as_str().unwrap())
                .collect();
            let wanted: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
            assert_eq!(params, wanted, "{at}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{at}");
            assert!(responses.contains_key("500"), "{at}");
            let proves = operation.get("security").is_some()
                || path.starts_with("/v1/client/")
                || path.starts_with("/hooks/")
                || path.starts_with("/api/session");
            assert_eq!(responses.contains_key("401"), proves, "{at}");
            let judged = operation.get("requestBody").is_some() || operation.get("x-strict-query").is_some();
            assert_eq!(responses.contains_key("422"), judged, "{at}");
            for (status, response) in responses {
                let at = format!("{at} {status}");
                let response = response["$ref"].as_str().map_or(response, |name| document.pointer(&name[1..]).unwrap());
                assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{at}");
                if status == "204" {
                    continue;
                }
                let content = response["content"].as_object().unwrap_or_else(|| panic!("{at} says nothing of its body"));
                assert!(!content.is_empty() && content.values().all(|media| media["schema"].is_object()), "{at}: {content:?}");
                let json = content.get("application/json").map_or(&Value::Null, |media| &media["schema"]["$ref"]);
                let is_openai = operation["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "OpenAI"));
                let error = if is_openai { "OpenAiErrorResponse" } else { "ErrorEnvelope" };
                let is_error = *json == format!("#/components/schemas/{error}");
                assert_eq!(is_error, !status.starts_with('2'), "{at}");
            }
        }
    }
}

#[test]
fn streams_and_optional_bodies_are_documented_as_such() {
    let document = document();
    let stream = "/responses/200/content/text~1event-stream/schema/properties/data/contentSchema/$ref";
    for path in ["/v1/dispatch", "/v1/dispatch/resume", "/v1/dispatch/approve", "/v1/dispatch/continue"] {
        assert_eq!(document["paths"][path]["post"].pointer(stream).unwrap(), "#/components/schemas/DispatchEvent", "{path}");
    }
    let events = &document["paths"]["/v1/executions/{executionId}/events"]["get"];
    assert_eq!(events.pointer(stream).unwrap(), "#/components/schemas/DispatchEvent");
    for (path, method, event) in [
        ("/v1/chat/completions", "post", "ChatCompletionChunk"),
        ("/v1/responses", "post", "OpenAiResponseEvent"),
        ("/v1/responses/{responseId}", "get", "OpenAiResponseEvent"),
    ] {
        let reference = document["paths"][path][method].pointer(stream).unwrap();
        assert_eq!(*reference, format!("#/components/schemas/{event}"), "{path}");
    }
    let handle = &document["paths"]["/v1/dispatch"]["post"]["responses"]["202"];
    assert_eq!(handle["content"]["application/json"]["schema"]["$ref"], "#/components/schemas/DispatchAccepted");
    assert!(document["paths"]["/v1/dispatch/resume"]["post"]["responses"].get("202").is_none(), "only a dispatch is handed over");
    let signal = &document["paths"]["/v1/executions/{executionId}/signals/{signal}"]["post"];
    assert_ne!(signal["requestBody"]["required"], true, "a signal may come without a payload");
}

fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.contains(&"#/components/schemas/ErrorEnvelope"));
    for reference in found {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
    }
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
}

#[tokio::test]
async fn the_server_hands_out_the_document_and_the_guide() {
    let app = TestApp::start().await;
    let served = app.bare(Method::GET, "/v1/openapi.json").send().await;
    assert_eq!((served.json(), served.header("content-type")), (document(), Some("application/json")));
    let guide = app.bare(Method::GET, "/llms.txt").send().await;
    assert!(guide.text().starts_with("# Dispatch") && guide.text().contains("/v1/openapi.json"));
    assert_eq!(guide.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn the_guide_names_only_routes_that_exist() {
    let document = document();
    let guide = include_str!("../../../docs/llms.txt");
    let paths = document["paths"].as_object().unwrap();
    let named = guide.split([' ', ',', ':', ';', '\n']).map(|word| word.trim_end_matches('.')).filter(|word| word.starts_with("/v1/"));
    for path in named {
        assert!(paths.contains_key(path), "{path}");
    }
}

/// What generators of clients stumble over: `true` for a schema, and defaults, which make a property one that must be given.
fn stumbles(value: &Value, at: &str, found: &mut Vec<String>) {
    let Value::Object(map) = value else {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            stumbles(item, &format!("{at}/{index}"), found);
        }
        return;
    };
    for (key, inner) in map.iter().filter(|(key, _)| *key != "example") {
        let place = format!("{at}/{key}");
        let is_schema = at.ends_with("/properties") || ["items", "additionalProperties", "schema"].contains(&key.as_str());
        let is_default = key == "default" && !at.ends_with("/properties");
        if (is_schema && inner.as_bool() == Some(true)) || is_default {
            found.push(place.clone());
        }
        stumbles(inner, &place, found);
    }
}

#[test]
fn generators_of_clients_can_read_every_schema() {
    let document = document();
    let mut found = Vec::new();
    stumbles(&document, "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(document["servers"][0]["url"], "/");
}

#[test]
fn every_component_has_a_name_that_says_something_and_is_used() {
    let document = document();
    let mut used = Vec::new();
    references(&document, &mut used);
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name} is one of several of the same name");
        assert!(!["Query", "From", "How", "Kind", "State", "Limits", "Effect"].contains(&name.as_str()), "{name} of what?");
        assert!(used.contains(&format!("#/components/schemas/{name}").as_str()), "nothing refers to {name}");
    }
}

#[test]
fn events_are_told_apart_by_their_type() {
    let document = document();
    let event = &document["components"]["schemas"]["DispatchEvent"];
    assert_eq!(event["discriminator"]["propertyName"], "type");
    let cases = event["discriminator"]["mapping"].as_object().unwrap();
    assert!(cases.len() > 30 && cases.len() == event["oneOf"].as_array().unwrap().len(), "{event}");
    for (kind, reference) in cases {
        let case = document.pointer(reference.as_str().unwrap().trim_start_matches('#')).unwrap();
        assert!(case["title"].as_str().is_some_and(|title| title.starts_with("DispatchEvent")), "{case}");
        assert_eq!(case["properties"]["type"]["const"], *kind, "{case}");
        let required = case["required"].as_array().unwrap();
        assert!(["type", "executionId", "seq"].iter().all(|name| required.contains(&json!(name))), "{case}");
    }
}

#[test]
fn events_of_a_response_are_told_apart_by_their_type() {
    let document = document();
    let event = &document["components"]["schemas"]["OpenAiResponseEvent"];
    let cases = event["discriminator"]["mapping"].as_object().unwrap();
    assert!(cases.len() > 15 && cases.contains_key("response.output_text.delta"), "{event}");
    for reference in cases.values() {
        let case = document.pointer(reference.as_str().unwrap().trim_start_matches('#')).unwrap();
        assert!(case["required"].as_array().unwrap().contains(&json!("sequence_number")), "{case}");
    }
}

#[test]
fn what_answers_and_requests_have_is_described() {
    let document = document();
    let member = |component: &str, name: &str| document["components"]["schemas"][component]["properties"][name].to_string();
    for (component, name, said) in [
        ("DispatchResult", "error", "ExecutionFailure"),
        ("DispatchResult", "pausedReason", "DispatchPausedReason"),
        ("DispatchResult", "totalTokens", "TokenCounts"),
        ("DispatchRequest", "messages", "MessageDocument"),
        ("DispatchRequest", "clientTools", "ToolDefinition"),
        ("ResumeRequest", "messages", "MessageDocument"),
        ("AgentDocument", "fallbacks", "FallbackDocument"),
        ("FlowInput", "steps", "StepDocument"),
        ("StepDocument", "retry", "RetryDocument"),
        ("StepDocument", "onError", "fail"),
    ] {
        assert!(member(component, name).contains(said), "{component}.{name}: {}", member(component, name));
    }
    let types = member("StepDocument", "type");
    for step in step::ALL {
        assert!(types.contains(&format!("`{}`", step.action)), "{}: {types}", step.action);
    }
}

/// Every operation's method, path and example, if it has one.
fn examples(document: &Value) -> Vec<(&str, &str, &str, &Value)> {
    let items = document["paths"].as_object().unwrap().iter();
    let operations =
        items.flat_map(|(path, item)| item.as_object().unwrap().iter().map(move |(method, operation)| (path, method, operation)));
    let with_example = operations.filter_map(|(path, method, operation)| {
        let example = operation.pointer("/requestBody/content/application~1json/example")?;
        Some((operation["operationId"].as_str()?, method.as_str(), path.as_str(), example))
    });
    with_example.collect()
}

#[test]
fn examples_fit_their_schemas() {
    let document = document();
    let examples = examples(&document);
    for wanted in
        ["dispatch", "createFlow", "createAgent", "approveDispatch", "enqueueJob", "createSchedule", "createWebhook", "startWorkflow"]
    {
        assert!(examples.iter().any(|(id, ..)| *id == wanted), "{wanted} has no example");
    }
    for (id, method, path, example) in examples {
        let mut schema = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"].clone();
        schema["components"] = document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let faults: Vec<String> = validator.iter_errors(example).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        assert!(faults.is_empty(), "{id}: {faults:?}");
    }
}

#[tokio::test]
async fn examples_of_creating_calls_are_accepted() {
    let app = TestApp::with(Setup { dev: true, ..Setup::default() }).await;
    let document = document();
    let mut flow = None;
    for wanted in [
        "dispatch",
        "createFlow",
        "createAgent",
        "createRecord",
        "createTool",
        "createSecret",
        "createApiKey",
        "createSchedule",
        "enqueueJob",
        "createCron",
        "createTrigger",
        "createWebhook",
        "createEval",
    ] {
        let (_, _, path, example) = examples(&document).into_iter().find(|(id, ..)| *id == wanted).unwrap();
        let mut example = example.clone();
        if wanted == "createSchedule" {
            example["target"]["flowId"] = json!(flow);
        }
        let answer = app.post(path).json(&example).send().await;
        assert!((200..300).contains(&answer.status), "{wanted}: {} {}", answer.status, answer.text());
        if wanted == "createFlow" {
            flow = answer.json()["id"].as_str().map(str::to_owned);
        }
    }
}
