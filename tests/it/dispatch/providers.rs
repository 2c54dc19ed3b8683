//! Models through the whole server, in each wire format: good answers, bad ones, and what they cost.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ask, flow, local};
use crate::support::world::World;

on_one!(Sqlite:
    good_answers,
    sources_are_told,
    pictures_are_shown,
    tools_in_every_format,
    an_answer_with_too_many_calls_is_a_failure,
    streamed_and_whole_cost_the_same,
    a_provider_that_asks_to_wait,
    cut_answers_are_taken_back,
    others_take_over,
    nobody_answers,
    keys_of_the_tenant_come_first,
    keys_of_one_tenant_serve_no_other,
    what_others_take_is_not_our_own,
);

const WIRES: [&str; 3] = ["openai", "anthropic", "gemini"];

fn prompt(model: &str) -> Value {
    json!({ "id": "p", "type": "prompt", "config": { "model": model, "userPrompt": "Go on.", "maxTokens": 100 } })
}

async fn good_answers(world: Arc<World>) {
    let node = world.node();
    for wire in WIRES {
        let end = node.dispatch(&flow(json!([prompt(&format!("{wire}/fake-reasoning"))]))).await;
        let words = "word1 word2 word3 word4 word5 ";
        assert_eq!((end.streamed_text().as_str(), &end.step("p")["result"]["response"]), (words, &json!(words)), "{wire}");
        assert_eq!(end.one("reasoning_complete").text("text"), "Let me think.", "{wire}");
        assert_eq!(end.step("p")["stopReason"], "end_turn");
        let last = &end.last().data;
        assert_eq!(last["totalTokens"], json!({ "input": 100, "output": 12 }), "{wire}: {last}");
        assert_eq!(last["costEstimated"], true, "a model without a price says so");
    }
}

async fn sources_are_told(world: Arc<World>) {
    let node = world.node();
    for wire in WIRES {
        for stream in [true, false] {
            let mut step = prompt(&format!("{wire}/fake-cites"));
            step["config"]["stream"] = stream.into();
            let told = node.dispatch(&flow(json!([step]))).await;
            let source = &told.one("source").data;
            let shown = (source["url"].as_str(), source["title"].as_str(), source["sourceType"].as_str());
            assert_eq!(shown, (Some("https://page.example/"), Some("A page"), Some("url")), "{wire} {stream}");
        }
        // An answer that was taken back took its sources along.
        let told = node.dispatch(&flow(json!([prompt(&format!("{wire}/fake-cites-end-after-2"))]))).await;
        assert_eq!(told.all("source").count(), 0, "{wire}");
    }
}

async fn pictures_are_shown(world: Arc<World>) {
    let node = world.node();
    for wire in ["openai", "gemini"] {
        for stream in [true, false] {
            let mut step = prompt(&format!("{wire}/fake-draws"));
            step["config"]["stream"] = stream.into();
            let told = node.dispatch(&flow(json!([step]))).await;
            let picture = &told.one("media_complete").data;
            assert_eq!(
                (&told.one("media_start").data["id"], &picture["mediaType"]),
                (&picture["id"], &json!("image/png")),
                "{wire} {stream}"
            );
            let data = picture["data"].as_str().unwrap();
            assert!(data.starts_with("iVBOR"), "{wire} {stream}");
            // Later steps have it, too; the words do not carry it.
            assert!(told.step("p")["result"]["response"].as_str().unwrap().contains(data), "{wire} {stream}");
            assert!(!told.streamed_text().contains(data) && told.streamed_text().starts_with("word1"), "{wire} {stream}");
        }
        // One of an answer that was taken back is void with it.
        let told = node.dispatch(&flow(json!([prompt(&format!("{wire}/fake-draws-end-after-2"))]))).await;
        let void: Vec<&Value> = told.customs("dispatch.attempt_discarded").collect();
        assert!(
            told.all("media_start").all(|start| void.iter().any(|void| void["blocks"].to_string().contains(start.text("id")))),
            "{wire}"
        );
    }
}

async fn what_others_take_is_not_our_own(world: Arc<World>) {
    let node = world.node();
    node.dispatch(&flow(json!([prompt("openai/fake-chunks-5-slow-400")]))).await;
    let page = node.bare(reqwest::Method::GET, "/metrics").send().await.text();
    let figure = |name: &str| -> f64 {
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name} is missing:\n{page}")).parse().unwrap()
    };
    assert_eq!(figure("dispatch_own_overhead_seconds_count"), 1.0);
    let own = figure("dispatch_own_overhead_seconds_sum");
    assert!(own > 0.0 && own < 1.0, "{own} s, though the model alone took more than 1.6 s");
    assert_eq!(figure("dispatch_runs_ended_total{state=\"completed\",outcome=\"success\"}"), 1.0);
    assert_eq!(figure("dispatch_model_calls_total{provider=\"openai\",model=\"other\",outcome=\"success\"}"), 1.0);
    assert_eq!(figure("dispatch_model_tokens_total{provider=\"openai\",model=\"other\",direction=\"input\"}"), 100.0);
}

async fn tools_in_every_format(world: Arc<World>) {
    let node = world.node();
    for wire in WIRES {
        let mut step = prompt(&format!("{wire}/fake-tools"));
        step["config"]["tools"] = json!({ "runtimeTools": [local("look"), local("listen")] });
        let paused = node.dispatch(&flow(json!([step]))).await;
        assert_eq!(paused.all("await").count(), 2, "{wire}");
        let end = node.resume(&paused.run(), json!({ "look": { "seen": 1 }, "listen": "silence" })).await;
        assert_eq!(end.step("p")["result"]["response"], "word1 word2 word3 word4 word5 ", "{wire}");
        assert_eq!(end.last().data["totalTokens"], json!({ "input": 200, "output": 7 }), "{wire}: both turns are counted");
        let asked = world.asked("fake-tools").await.to_string();
        assert!(asked.contains("silence") && asked.contains("seen"), "{wire}: {asked}");
    }
}

async fn an_answer_with_too_many_calls_is_a_failure(world: Arc<World>) {
    let node = world.node();
    let tools: Vec<Value> = (0..257).map(|number| local(&format!("tool{number}"))).collect();
    for wire in WIRES {
        for stream in [true, false] {
            // It calls every tool that it is offered.
            let mut step = prompt(&format!("{wire}/fake-tools"));
            step["config"]["tools"] = json!({ "runtimeTools": tools });
            step["config"]["stream"] = stream.into();
            let end = node.dispatch(&flow(json!([step]))).await;
            let failed = end.step("p");
            assert_eq!((&failed["success"], &failed["code"]), (&json!(false), &json!("answer_too_large")), "{wire} {stream}: {failed}");
            assert_eq!(end.all("await").count(), 0, "{wire} {stream}");
        }
    }
}

async fn streamed_and_whole_cost_the_same(world: Arc<World>) {
    let node = world.node();
    for model in ["openai/gpt-5.4-mini", "anthropic/claude-sonnet-4-6", "gemini/gemini-2.5-flash"] {
        let mut figures = Vec::new();
        for (asked, told) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut step = prompt(model);
            step["config"]["stream"] = json!(asked);
            let body = flow(json!([step]));
            let (run, cost, tokens) = if told {
                let end = node.dispatch(&body).await;
                (end.run(), end.last().data["totalCost"].clone(), end.last().data["totalTokens"].clone())
            } else {
                let end = node.result(&body).await;
                (end["executionId"].as_str().unwrap().to_owned(), end["totalCost"].clone(), end["totalTokens"].clone())
            };
            let usage = node.execution(&run).await["usage"].clone();
            assert_eq!((&usage["cost"], usage["estimated"].as_bool()), (&cost, Some(false)), "{model}");
            figures.push((cost, tokens));
        }
        assert!(figures.iter().all(|figure| *figure == figures[0]), "{model}: {figures:?}");
        assert!(figures[0].0.as_f64().unwrap() > 0.0, "{model} is not free");
    }
    let exact = node.dispatch(&flow(json!([prompt("openai/gpt-5.4-mini")]))).await;
    // 60 new, 40 cached and 5 output tokens at 0.75, 0.075 and 4.5 dollars a million.
    assert_eq!(exact.last().data["totalCost"], json!(0.0000705));
}

async fn a_provider_that_asks_to_wait(world: Arc<World>) {
    let node = world.node();
    for wire in WIRES {
        // Another model is at hand: nobody waits for the first.
        let mut step = prompt(&format!("{wire}/fake-429-retry-after-60"));
        step["config"]["fallbacks"] = json!([format!("{wire}/fake-ok")]);
        let end = node.dispatch(&flow(json!([step]))).await;
        assert_eq!(end.step("p")["success"], true, "{wire}");
        assert_eq!(end.custom("runtype.fallback")["model"], format!("{wire}/fake-ok"));
        assert_eq!(end.step("p")["fallback"]["used"], true);
    }
    // Alone, it is waited for as long as it asked.
    let mut reader = node.open(&flow(json!([prompt("openai/fake-429-retry-after-1")]))).await;
    let told = reader.until(|frame| frame.custom() == Some("dispatch.provider_retry")).await;
    assert_eq!((&told.data["value"]["waitMs"], &told.data["value"]["class"]), (&json!(1_000), &json!("rate_limited")));
}

async fn cut_answers_are_taken_back(world: Arc<World>) {
    let node = world.node();
    for (wire, fault) in
        WIRES.into_iter().flat_map(|wire| ["cut-after-2", "end-after-3", "late-error", "malformed"].map(|fault| (wire, fault)))
    {
        let mut step = prompt(&format!("{wire}/fake-{fault}"));
        step["config"]["fallbacks"] = json!([format!("{wire}/fake-chunks-3")]);
        let end = node.dispatch(&flow(json!([step]))).await;
        let whole = "word1 word2 word3 ";
        assert_eq!((&end.step("p")["result"]["response"], end.streamed_text().as_str()), (&json!(whole), whole), "{wire} {fault}");
        assert!(end.customs("dispatch.attempt_discarded").count() >= 1, "{wire} {fault}: what was shown is taken back");
        assert_eq!(end.all("text_complete").count(), 1, "{wire} {fault}: only the whole text ends as one");
        let attempts = end.step("p")["fallback"]["attempts"].as_array().unwrap();
        assert_eq!(attempts.last().unwrap()["success"], true);
        assert!(end.last().data["totalTokens"]["output"].as_u64().unwrap() > 3, "what was cut is booked too");
    }
}

async fn others_take_over(world: Arc<World>) {
    let node = world.node();
    let mut step = prompt("openai/fake-401");
    step["config"]["fallbacks"] = json!(["anthropic/fake-billing", { "model": "gemini/fake-blank" }, "openai/fake-ok"]);
    let end = node.dispatch(&flow(json!([step]))).await;
    assert_eq!(end.step("p")["result"]["model"], "openai/fake-ok", "{:?}", end.step("p"));
    assert!(end.customs("runtype.fallback").count() >= 2);
    // The error handling may name them as well.
    let mut step = prompt("openai/fake-401");
    step["config"]["errorHandling"] = json!({ "fallbacks": [{ "type": "model", "model": "anthropic/fake-ok" }] });
    assert_eq!(node.dispatch(&flow(json!([step]))).await.step("p")["result"]["model"], "anthropic/fake-ok");
    let flaky = node.dispatch(&flow(json!([prompt("anthropic/fake-flaky-1")]))).await;
    assert_eq!((&flaky.step("p")["success"], flaky.customs("dispatch.provider_retry").count()), (&json!(true), 1));
}

async fn nobody_answers(world: Arc<World>) {
    let node = world.node();
    for wire in WIRES {
        let mut step = prompt(&format!("{wire}/fake-401"));
        step["config"]["fallbacks"] = json!([format!("{wire}/fake-billing")]);
        let end = node.dispatch(&flow(json!([step, ask("next", "say on")]))).await;
        let failed = end.step("p");
        assert_eq!(failed["success"], false, "{wire}");
        assert!(failed["code"].as_str().unwrap().starts_with("provider_"), "{failed}");
        assert!(!failed["error"].as_str().unwrap().contains("canary"), "{failed}");
        assert_eq!(end.step("next")["success"], true, "the flow goes on");
        assert_eq!((&end.last().data["success"], &end.last().data["failedSteps"]), (&json!(false), &json!(1)));
    }
    let filtered = node.dispatch(&flow(json!([prompt("openai/fake-filter")]))).await;
    assert_eq!(filtered.step("p")["code"], "content_filtered");
}

async fn keys_of_the_tenant_come_first(world: Arc<World>) {
    world.configure(|config| drop(config.env.remove("OPENAI_API_KEY")));
    let node = world.crash().await;
    let body = flow(json!([prompt("openai/fake-ok")]));
    node.post("/v1/dispatch").json(&body).refused(402, "provider_not_configured").await;
    let stored = node.bare(reqwest::Method::PUT, "/v1/credentials/openai").bearer(crate::support::world::KEY);
    stored.json(&json!({ "apiKey": "sk-of-the-tenant" })).ok().await;
    // A tenant's keys are believed for a moment before they are read again.
    let node = world.crash().await;
    assert_eq!(node.dispatch(&body).await.step("p")["success"], true);
}

async fn keys_of_one_tenant_serve_no_other(world: Arc<World>) {
    world.configure(|config| drop(config.env.remove("OPENAI_API_KEY")));
    let node = world.crash().await;
    let stranger = world.strangers_key().await;
    let body = flow(json!([prompt("openai/fake-ok")]));
    let put =
        |key: &str| node.bare(reqwest::Method::PUT, "/v1/credentials/openai").bearer(key).json(&json!({ "apiKey": "sk-of-a-tenant" }));
    put(crate::support::world::KEY).ok().await;
    // The owner's run warms whatever is kept: its compiled flow, its keys, its connection.
    assert_eq!(node.dispatch(&body).await.step("p")["success"], true);
    for _ in 0..2 {
        let call = node.bare(reqwest::Method::POST, "/v1/dispatch").bearer(&stranger).header("idempotency-key", "k").json(&body);
        call.refused(402, "provider_not_configured").await;
        assert_eq!(node.dispatch(&body).await.step("p")["success"], true);
    }
    assert_eq!(world.stats().await["requests"]["fake-ok"], 3, "nobody is given an answer that was made for another");
    assert_eq!(node.bare(reqwest::Method::GET, "/v1/executions").bearer(&stranger).ok().await["data"], json!([]));
}
