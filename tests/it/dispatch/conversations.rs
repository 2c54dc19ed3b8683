//! Conversations as models are shown them: messages of every dialect, results in the order of their calls, numbers with all their digits.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, ask_with, fails, flow, local};
use crate::support::world::World;

on_one!(Sqlite:
    messages_of_every_dialect_reach_the_model,
    messages_that_no_model_reads_are_refused,
    results_of_one_turn_stay_together,
    pages_answer_with_pictures,
    long_integers_keep_their_digits,
    failures_say_whether_they_pass,
);

on_both!(answers_under_a_name_go_to_the_oldest_call, an_id_and_a_name_in_one_answer);

const PNG: &str = "iVBORw0KGgo=";

fn agent(messages: Value) -> Value {
    json!({ "agent": { "name": "a", "model": "openai/fake-ok", "systemPrompt": "Be brief." }, "messages": messages })
}

async fn messages_of_every_dialect_reach_the_model(world: Arc<World>) {
    let node = world.node();
    let png_url = format!("data:image/png;base64,{PNG}");
    let words = json!({ "type": "text", "text": "What is this?" });
    let user = |part: Value| json!([{ "role": "user", "content": [words, part] }]);
    let cases: [(Value, &str); 9] = [
        (user(json!({ "type": "image_url", "image_url": png_url })), PNG),
        (user(json!({ "type": "image_url", "image_url": { "url": format!("data:IMAGE/PNG;name=a.png;base64,{PNG}") } })), &png_url),
        (user(json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": PNG } })), &png_url),
        (user(json!({ "type": "image", "image": PNG, "mediaType": "image/png" })), &png_url),
        (user(json!({ "type": "image", "data": PNG, "mimeType": "image/png" })), &png_url),
        (user(json!({ "type": "file", "url": png_url, "mediaType": "image/png" })), &png_url),
        (
            user(json!({ "type": "file", "file": { "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQ=" } })),
            "data:application/pdf;base64,JVBERi0xLjQ=",
        ),
        (json!([{ "role": "user", "parts": [{ "type": "text", "text": "How tall is the mast?" }] }]), "How tall is the mast?"),
        (
            json!([{ "role": "user", "parts": [{ "text": "from Gemini" }, { "inlineData": { "mimeType": "image/png", "data": PNG } }] }]),
            &png_url,
        ),
    ];
    for (messages, wanted) in cases {
        let answer = node.result(&agent(messages.clone())).await;
        assert_eq!(answer["success"], true, "{messages}: {answer}");
        let asked = world.asked("fake-ok").await;
        let last = asked["messages"].as_array().unwrap().last().unwrap().to_string();
        assert!(last.contains(wanted), "{messages}: {last}");
    }
    // A result names its tool, and stands behind its call.
    let history = json!([
        { "role": "user", "content": "hi" },
        { "role": "assistant", "content": [{ "type": "tool-call", "toolCallId": "c1", "toolName": "look", "args": { "n": 1 } }] },
        { "role": "tool", "content": [{ "type": "tool-result", "toolCallId": "c1", "toolName": "look", "result": { "seen": 1 } }] },
        { "role": "user", "content": "and?" },
    ]);
    node.result(&agent(history)).await;
    let asked = world.asked("fake-ok").await;
    let sent = asked["messages"].as_array().unwrap();
    assert_eq!(
        sent.iter().map(|message| message["role"].as_str().unwrap()).collect::<Vec<_>>()[1..],
        ["user", "assistant", "tool", "user"]
    );
    assert_eq!((&sent[2]["tool_calls"][0]["function"]["name"], &sent[3]["content"]), (&json!("look"), &json!("{\"seen\":1}")));
}

async fn messages_that_no_model_reads_are_refused(world: Arc<World>) {
    let node = world.node();
    let hologram = json!({ "role": "user", "content": [
        { "type": "text", "text": "See:" }, { "type": "hologram", "hologram": "x" },
    ] });
    let hi = json!({ "role": "user", "content": "hi" });
    let mut literal = ask("p", "x");
    literal["config"]["previousMessages"] = json!([hi, hologram, "{{more}}"]);
    let cases = [
        (agent(json!([hi, hologram])), vec!["/messages/1/content/1/type"]),
        (agent(json!([hi, { "role": "user", "content": "" }])), vec!["/messages/1/content"]),
        (agent(json!([{ "role": "user", "content": [{ "type": "image", "image": "" }] }])), vec!["/messages/0/content/0/image"]),
        (agent(json!([{ "role": "critic", "content": "x" }])), vec!["/messages/0/role"]),
        (flow(json!([literal])), vec!["/flow/steps/0/config/previousMessages/1/content/1/type"]),
    ];
    for (body, pointers) in cases {
        let refused = node.post("/v1/dispatch").json(&body).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), pointers, "{body}");
    }
    // A flow is asked what its prompts are sent; its other steps may read anything.
    let prompt = |config: Value| {
        let mut body = flow(json!([{ "id": "p", "type": "prompt", "config": config }]));
        body["messages"] = json!([hologram]);
        body
    };
    let sent = prompt(json!({ "model": "local/echo", "userPrompt": "x", "previousMessages": "{{messages}}" }));
    assert_eq!(node.post("/v1/dispatch").json(&sent).refused(422, "validation_failed").await.pointers(), ["/messages/0/content/1/type"]);
    let unsent = prompt(json!({ "model": "local/echo", "userPrompt": "say {{user_message}}" }));
    assert_eq!(node.result(&unsent).await["success"], true);
    // What only templates bring fails the step.
    let mut late = prompt(json!({ "model": "local/echo", "userPrompt": "x", "previousMessages": "{{said}}" }));
    late["inputs"] = json!({ "said": [hologram] });
    assert_eq!(node.dispatch(&late).await.step("p")["code"], "invalid_messages");
    let paused = node.dispatch(&flow(json!([ask_with("work", "call look {}", json!({ "runtimeTools": [local("look")] }))]))).await;
    let resume = json!({ "executionId": paused.run(), "toolOutputs": { "look": 1 }, "messages": [hologram] });
    let refused = node.post("/v1/dispatch/resume").json(&resume).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/messages/0/content/1/type"]);
    let resume = json!({ "executionId": paused.run(), "continuation": { "toolOutputs": { "look": 1 }, "messages": [hologram] } });
    let refused = node.post("/v1/dispatch/continue").json(&resume).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/continuation/messages/0/content/1/type"]);
    assert_eq!(node.resume(&paused.run(), json!({ "look": 1 })).await.last().kind, "execution_complete");
}

/// A prompt of a model that calls each of its tools.
fn calls_tools(tools: Value) -> Value {
    let config = json!({ "model": "openai/fake-tools", "userPrompt": "Go on.", "tools": { "runtimeTools": tools } });
    flow(json!([{ "id": "p", "type": "prompt", "config": config }]))
}

/// The messages that the model was sent last, behind its calls.
async fn behind_the_calls(world: &World) -> Vec<Value> {
    let asked = world.asked("fake-tools").await;
    let sent = asked["messages"].as_array().unwrap();
    let calls = sent.iter().position(|message| message["tool_calls"].is_array()).unwrap();
    sent[calls + 1..].to_vec()
}

async fn results_of_one_turn_stay_together(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&calls_tools(json!([local("look"), local("listen")]))).await;
    let body = json!({
        "executionId": paused.run(), "toolOutputs": { "look": "a mast", "listen": "silence" },
        "messages": [{ "role": "user", "content": "and be quick" }],
    });
    node.go_on("/v1/dispatch/resume", &body).await;
    let sent = behind_the_calls(&world).await;
    let shown: Vec<(&Value, &Value)> = sent.iter().map(|message| (&message["role"], &message["content"])).collect();
    let (tool, user) = (json!("tool"), json!("user"));
    assert_eq!(shown, [(&tool, &json!("a mast")), (&tool, &json!("silence")), (&user, &json!("and be quick"))]);
}

async fn pages_answer_with_pictures(world: Arc<World>) {
    let node = world.node();
    let picture = json!({ "type": "image", "data": PNG, "mimeType": "image/png" });
    let both = "seen\n(a picture is shown beside this text)";
    let odd = json!({ "content": [] });
    let cases = [
        (json!({ "content": [{ "type": "text", "text": "seen" }, picture] }), both, true),
        (json!({ "content": [picture] }), "(a picture is shown beside this text)", true),
        (json!({ "content": [{ "type": "text", "text": "no" }], "isError": true }), "Error: no", false),
        (json!({ "content": [{ "type": "text", "text": "" }], "structuredContent": { "n": 1 } }), "{\"n\":1}", false),
        (odd, "{\"content\":[]}", false),
        (Value::Null, "null", false),
        (json!(""), "\"\"", false),
    ];
    for (output, text, shows) in cases {
        let paused = node.dispatch(&calls_tools(json!([local("look"), local("listen")]))).await;
        let then = node.resume(&paused.run(), json!({ "look": output, "listen": "silence" })).await;
        let sent = behind_the_calls(&world).await;
        assert_eq!((&sent[0]["content"], &sent[1]["content"]), (&json!(text), &json!("silence")), "{output}");
        let beside = sent.get(2).map(Value::to_string).unwrap_or_default();
        assert_eq!(beside.contains(&format!("data:image/png;base64,{PNG}")), shows, "{output}: {beside}");
        let told = then.all("tool_complete").find(|frame| frame.data["toolName"] == "look").unwrap();
        assert!(!told.data.to_string().contains(PNG), "the log does not hold the picture twice: {}", told.data);
    }
}

async fn answers_under_a_name_go_to_the_oldest_call(world: Arc<World>) {
    let node = world.node();
    let words: Vec<String> = (0..4).map(|number| format!("call pick {{\"n\": {number}}}")).collect();
    for _ in 0..5 {
        let tools = json!({ "runtimeTools": [local("pick")] });
        let paused = node.dispatch(&flow(json!([ask_with("work", &words.join("\n"), tools)]))).await;
        let asked: Vec<i64> = paused.all("await").map(|frame| frame.data["parameters"]["n"].as_i64().unwrap()).collect();
        assert_eq!(asked, [0, 1, 2, 3]);
        let mut last = None;
        for number in 0..4 {
            last = Some(node.resume(&paused.run(), json!({ "pick": format!("a{number}") })).await);
        }
        let said = last.unwrap().step("work")["result"]["response"].clone();
        assert_eq!(said, "pick answered: a0\npick answered: a1\npick answered: a2\npick answered: a3");
    }
}

async fn an_id_and_a_name_in_one_answer(world: Arc<World>) {
    let node = world.node();
    let tools = json!({ "runtimeTools": [local("pick")] });
    let paused = node.dispatch(&flow(json!([ask_with("work", "call pick {}\ncall pick {}", tools)]))).await;
    let first = paused.all("await").next().unwrap().text("toolCallId").to_owned();
    let end = node.resume(&paused.run(), json!({ "pick": "by name", first: "by id" })).await;
    assert_eq!(end.step("work")["result"]["response"], "pick answered: by id\npick answered: by name");
}

async fn long_integers_keep_their_digits(world: Arc<World>) {
    let node = world.node();
    let schema = json!({ "type": "object", "properties": { "id": { "type": "integer" } }, "required": ["id"] });
    let tool = |kind: &str, config: Value| {
        let definition = json!({ "name": "look", "description": "Looks.", "toolType": kind, "parametersSchema": schema, "config": config });
        json!({ "runtimeTools": [definition] })
    };
    // Beyond 2^53, and beyond 2^64.
    for digits in ["2512292042121000001", "98765432109876543210987"] {
        let call = format!("call look {{\"id\": {digits}}}");
        let url = world.sink.url("/effect/{{id}}");
        let told = node.dispatch(&flow(json!([ask_with("work", &call, tool("external", json!({ "url": url, "method": "GET" })))]))).await;
        assert_eq!(told.one("tool_complete").data["success"], true, "{:?}", told.one("tool_complete"));
        assert_eq!(world.sink.seen(&format!("/effect/{digits}")).len(), 1);
        let mut asks = tool("local", Value::Null);
        asks["approval"] = json!({ "require": [{ "tool": "look", "when": "id > 100" }] });
        let asked = node.dispatch(&flow(json!([ask_with("work", &call, asks)]))).await;
        assert!(asked.one("approval_start").data["parameters"].to_string().contains(digits), "{:?}", asked.one("approval_start"));
        for code in ["return String(input.id);", "return `${id}`;"] {
            let told = node.dispatch(&flow(json!([ask_with("work", &call, tool("custom", json!({ "code": code })))]))).await;
            assert_eq!(told.one("tool_complete").data["result"], digits, "{code}");
        }
        let told =
            node.dispatch(&flow(json!([ask_with("work", &call, tool("custom", json!({ "code": "return { id: input.id };" })))]))).await;
        assert!(told.one("tool_complete").data["result"]["id"].to_string().contains(digits), "{:?}", told.one("tool_complete"));
        // What is no integer is still refused.
        let told = node
            .dispatch(&flow(json!([ask_with("work", &format!("call look {{\"id\": \"{digits}\"}}"), tool("local", Value::Null))])))
            .await;
        assert_eq!(told.one("tool_complete").data["success"], false);
    }
}

async fn failures_say_whether_they_pass(world: Arc<World>) {
    let node = world.node();
    let cases = [(ask("p", "slow 5000\nsay a b c"), true), (fails("p"), false)];
    for (step, passes) in cases {
        let mut body = flow(json!([step]));
        body["options"] = json!({ "stepTimeoutMs": 500 });
        let answer = node.result(&body).await;
        assert_eq!((&answer["success"], &answer["error"]["retryable"]), (&json!(false), &json!(passes)), "{answer}");
        let ended = answer["events"].as_array().unwrap().iter().find(|event| event["type"] == "step_complete").unwrap();
        assert_eq!(ended["retryable"].as_bool().unwrap_or(false), passes, "{ended}");
    }
}
