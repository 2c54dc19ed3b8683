//! A run's events, read again, from anywhere, by anyone, at any pace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::model::event::Rest;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{ask, ask_with, flow, local};
use crate::support::app::within;
use crate::support::transcript::{Frame, Transcript, take_frames};
use crate::support::world::{Kind, Node, World};

on_both!(
    the_log_is_what_was_streamed,
    readers_begin_where_they_left,
    many_read_the_same_while_it_runs,
    whoever_comes_late_is_told_the_end,
    the_long_poll_waits_and_pages,
    readers_of_a_paused_run,
    steps_are_told_from_the_log,
    a_server_that_stops_hands_its_runs_back,
    a_server_that_stops_ends_its_answers_whole,
    readers_are_let_go,
    an_expired_cursor_gets_one_reset,
    a_log_that_cannot_be_read_holds_up_no_other,
);
on_one!(Sqlite: a_hundred_cuts_lose_nothing, a_slow_reader_slows_nobody);

fn long(words: usize, pause: u64) -> Value {
    flow(json!([ask("a", "say one"), ask("talk", &format!("repeat {words} word\nslow {pause}")), ask("b", "say two")]))
}

async fn the_log_is_what_was_streamed(world: Arc<World>) {
    let node = world.node();
    let streamed = node.dispatch(&long(300, 0)).await;
    assert_eq!(node.log(&streamed.run()).await.frames, streamed.frames);
    let node = world.crash().await;
    assert_eq!(node.log(&streamed.run()).await.frames, streamed.frames, "also by another server");
    let ids: Vec<u64> = streamed.frames.iter().map(|frame| frame.id).collect();
    assert_eq!(ids, (0..ids.len() as u64).collect::<Vec<_>>(), "without a crash there is no gap");
}

async fn readers_begin_where_they_left(world: Arc<World>) {
    let node = world.node();
    let all = node.dispatch(&long(20, 0)).await.frames;
    let run = all[0].text("executionId").to_owned();
    for after in [0, 7, all.len() as u64 - 2] {
        let rest: Vec<Frame> = all.iter().filter(|frame| frame.id > after).cloned().collect();
        assert_eq!(node.events(&run, Some(after)).await.rest().await.frames, rest);
        let path = format!("/v1/executions/{run}/events");
        let call = node.get(&path).header("accept", "text/event-stream").header("last-event-id", after.to_string());
        assert_eq!(node.reader(call).await.rest().await.frames, rest, "Last-Event-ID says the same");
    }
    assert_eq!(node.events(&run, Some(u64::MAX)).await.rest().await.frames, []);
    let path = format!("/v1/executions/{run}/events");
    node.get(&path).header("last-event-id", "seven").refused(400, "invalid_cursor").await;
    node.get(&format!("{path}?after=-1")).refused(400, "invalid_query").await;
}

async fn many_read_the_same_while_it_runs(world: Arc<World>) {
    let node = world.node();
    let other = if world.kind == Kind::Postgres { world.start().await } else { node.clone() };
    let mut first = node.open(&long(100, 5)).await;
    let run = first.until(|frame| frame.kind == "text_delta").await.text("executionId").to_owned();
    let here = node.events(&run, None).await;
    let there = other.events(&run, None).await;
    let (first, here, there) = tokio::join!(first.rest(), here.rest(), there.rest());
    let first = first.fresh();
    assert_eq!(here.frames, first.frames);
    assert_eq!(there.frames, first.frames);
}

async fn whoever_comes_late_is_told_the_end(world: Arc<World>) {
    let node = world.node();
    let run = node.dispatch(&long(3, 0)).await;
    let last = run.last().id;
    let end = node.events(&run.run(), Some(last - 1)).await.rest().await;
    assert_eq!(end.frames, [run.last().clone()]);
    assert_eq!(node.events(&run.run(), Some(last)).await.rest().await.frames, [], "nothing is left, and it says so at once");
}

async fn the_long_poll_waits_and_pages(world: Arc<World>) {
    let node = world.node();
    let mut reader = node.open(&long(40, 10)).await;
    let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    let (mut after, mut events, mut pages): (Option<u64>, Vec<Value>, usize) = (None, Vec::new(), 0);
    let status = loop {
        let query = after.map_or_else(String::new, |after| format!("?after={after}&wait=5"));
        let page = within(node.get(&format!("/v1/executions/{run}/events{query}")).ok()).await;
        assert_eq!(page["executionId"], run);
        let new = page["events"].as_array().unwrap();
        events.extend(new.iter().cloned());
        after = page["after"].as_u64();
        pages += 1;
        if new.last().is_some_and(|event| event["type"] == "execution_complete") {
            break page["status"].clone();
        }
    };
    assert_eq!(status, "completed");
    assert!(pages > 3, "it came in parts");
    let streamed = reader.rest().await.fresh();
    assert_eq!(events, streamed.frames.iter().map(|frame| frame.data.clone()).collect::<Vec<_>>());
    let page = node.get(&format!("/v1/executions/{run}/events?after={}&wait=60", after.unwrap())).ok().await;
    assert_eq!((&page["events"], &page["after"]), (&json!([]), &json!(after)), "an ended run is not waited for");
}

async fn readers_of_a_paused_run(world: Arc<World>) {
    let node = world.node();
    let paused = node.dispatch(&flow(json!([ask_with("w", "call look {}", json!({ "runtimeTools": [local("look")] }))]))).await;
    let last = paused.last().id;
    assert_eq!(node.events(&paused.run(), None).await.rest().await.frames, paused.frames, "it ends where the run waits");
    let page = within(node.get(&format!("/v1/executions/{}/events?after={last}", paused.run())).ok()).await;
    assert_eq!((&page["events"], &page["status"]), (&json!([]), &json!("paused")));
    let end = node.resume(&paused.run(), json!({ "look": 1 })).await;
    let all: Vec<Frame> = paused.frames.iter().chain(&end.frames).cloned().collect();
    assert_eq!(node.log(&paused.run()).await.frames, all);
}

async fn steps_are_told_from_the_log(world: Arc<World>) {
    let node = world.node();
    let mut skipped = ask("skipped", "say x");
    skipped["when"] = json!("false");
    let steps = json!([
        ask("done", "say {{gone}}"),
        super::fails("failed"),
        skipped,
        ask_with("waits", "call look {}", json!({ "runtimeTools": [local("look")] }))
    ]);
    let paused = node.dispatch(&flow(steps)).await;
    let told = node.get(&format!("/v1/executions/{}/steps", paused.run())).ok().await;
    let states: Vec<(&str, &str)> =
        told["data"].as_array().unwrap().iter().map(|step| (step["id"].as_str().unwrap(), step["status"].as_str().unwrap())).collect();
    assert_eq!(states, [("done", "completed"), ("failed", "failed"), ("skipped", "skipped"), ("waits", "waiting")]);
    assert_eq!(told["data"][0]["unresolvedVariables"], json!(["gone"]));
    assert!(told["data"][1]["error"].as_str().unwrap().contains("broken on purpose"));
    let shown = node.get("/v1/executions?status=paused").ok().await;
    assert_eq!((shown["data"].as_array().unwrap().len(), &shown["data"][0]["id"]), (1, &json!(paused.run())));
    assert_eq!(node.get("/v1/executions?status=completed").ok().await["data"], json!([]));
}

async fn a_server_that_stops_hands_its_runs_back(world: Arc<World>) {
    world.configure(|config| config.grace = std::time::Duration::ZERO);
    let node = world.crash().await;
    let mut reader = node.open(&long(60, 20)).await;
    // In the middle of the long answer: the step before it has text too.
    let talks = reader.until(|frame| frame.kind == "text_start" && frame.data["stepId"] == "talk").await;
    let run = talks.text("executionId").to_owned();
    node.stop().await;
    let (before, hint) = reader.rest_and_hint().await;
    assert!(hint, "the reader is told to come back");
    assert_eq!(before.last().custom(), Some("dispatch.handed_back"), "what was there already is given out first");
    let node = world.crash().await;
    let rest = node.events(&run, Some(before.last().id)).await.rest().await;
    assert_eq!(rest.last().kind, "execution_complete", "it comes back and goes on where it was");
    let log = node.log(&run).await.fresh();
    assert_eq!(log.frames[..before.frames.len()], before.frames[..], "what was told stays told");
    assert_eq!((log.customs("dispatch.handed_back").count(), log.customs("dispatch.attempt_discarded").count()), (1, 1));
    assert_eq!(log.step("talk")["result"]["response"].as_str().unwrap().split(' ').count(), 60);
    assert_eq!(log.last().data["success"], true);
}

async fn a_server_that_stops_ends_its_answers_whole(world: Arc<World>) {
    world.configure(|config| config.grace = std::time::Duration::ZERO);
    let node = world.crash().await;
    let sleeps = flow(json!([{ "id": "sleep", "type": "wait-until", "config": { "delayMs": 3_600_000 } }]));
    let mut reader = node.open(&sleeps).await;
    let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    assert_eq!(node.rests(&run).await, Rest::Later);
    let mut talks =
        flow(json!([{ "id": "talk", "type": "prompt", "config": { "model": "openai/fake-chunks-1000-slow-20", "userPrompt": "talk" } }]));
    talks["streamResponse"] = json!(false);
    let waits = tokio::spawn(node.post("/v1/dispatch").json(&talks).send());
    world.stats_are(|stats| stats["openRequests"] == 1).await;
    node.stop().await;
    let (slept, hint) = reader.rest_and_hint().await;
    assert_eq!((slept.kinds(), hint), (vec!["execution_start", "step_start"], true), "a run that sleeps is woken by nobody");
    let accepted = within(waits).await.unwrap();
    assert_eq!(accepted.status, 202, "what was accepted goes on elsewhere: {}", accepted.text());
    let (body, place) = (accepted.json(), accepted.header("location").unwrap().to_owned());
    assert_eq!(accepted.header("x-execution-id"), body["executionId"].as_str());
    let node = world.crash().await;
    assert_eq!(node.get(&place).ok().await["id"], body["executionId"]);
}

async fn readers_are_let_go(world: Arc<World>) {
    let node = world.node();
    let ended = node.dispatch(&flow(json!([ask("a", "say a")]))).await;
    let mut reader = node.open(&flow(json!([{ "id": "sleep", "type": "wait-until", "config": { "delayMs": 3_600_000 } }]))).await;
    let run = reader.until(|frame| frame.kind == "step_start").await.text("executionId").to_owned();
    node.rests(&run).await;
    let stalls = json!({ "id": "talk", "type": "prompt", "config": { "model": "openai/fake-stall", "userPrompt": "talk" } });
    let mut running = node.open(&flow(json!([stalls]))).await;
    let started = running.until(|frame| frame.kind == "step_start").await;
    node.with_state(|state| async move { state.feed.stop() }).await;
    let (before, hint) = reader.rest_and_hint().await;
    assert!(hint, "whoever waits is woken");
    assert!(running.rest_and_hint().await.1, "also where the run goes on here");
    // Whoever comes now is given what is there, and not kept.
    let (late, hint) = node.events(&run, None).await.rest_and_hint().await;
    assert_eq!((late.frames, hint), (before.frames.clone(), true));
    let (none, hint) = node.events(&run, Some(before.last().id)).await.rest_and_hint().await;
    assert_eq!((none.frames, hint), (vec![], true));
    let path = format!("/v1/executions/{run}/events");
    assert_eq!(node.get(&path).ok().await["events"].as_array().unwrap().len(), before.frames.len());
    let poll = format!("/v1/executions/{}/events?after={}&wait=60", started.text("executionId"), started.id);
    node.get(&poll).refused(503, "shutting_down").await;
    let (whole, hint) = node.events(&ended.run(), None).await.rest_and_hint().await;
    assert_eq!((whole.frames, hint), (ended.frames, false), "an ended run has its own end");
}

/// Reads a stream up to a number of bytes and hangs up; what came whole counts.
async fn read_some(node: &Node, run: &str, after: Option<u64>, bytes: usize) -> (Vec<Frame>, bool) {
    let mut call = node.get(&format!("/v1/executions/{run}/events")).header("accept", "text/event-stream");
    if let Some(after) = after {
        call = call.header("last-event-id", after.to_string());
    }
    let mut pieces = call.start().await.bytes_stream();
    let mut buffer = Vec::new();
    while buffer.len() < bytes {
        let Some(piece) = within(pieces.next()).await else { return (take_frames(&mut buffer), true) };
        buffer.extend_from_slice(&piece.unwrap());
    }
    buffer.truncate(bytes);
    (take_frames(&mut buffer), false)
}

async fn a_hundred_cuts_lose_nothing(world: Arc<World>) {
    let node = world.node();
    // Frames of few bytes, so that most pieces hold one: the texts at the blocks' ends stay short too.
    let steps: Vec<Value> = (0..40).map(|n| ask(&format!("s{n}"), "repeat 10 word\nslow 2")).collect();
    let mut first = node.open(&flow(json!(steps))).await;
    let run = first.until(|frame| frame.kind == "execution_start").await.text("executionId").to_owned();
    let chance = Clock::simulated(7, Timestamp::from_millis(0));
    let (mut joined, mut cuts): (Vec<Frame>, usize) = (Vec::new(), 0);
    loop {
        let after = joined.last().map(|frame| frame.id);
        let bytes = usize::try_from(chance.below(1_500)).unwrap() + 1;
        let (frames, whole) = read_some(&node, &run, after, bytes).await;
        joined.extend(frames);
        if joined.last().is_some_and(Frame::is_terminal) {
            break;
        }
        assert!(!whole, "the stream ended before the run");
        cuts += 1;
    }
    assert!(cuts >= 100, "{cuts} cuts");
    let streamed = first.rest().await;
    assert_eq!(joined, streamed.frames);
    assert_eq!(Transcript::of(joined).fresh().frames, node.log(&run).await.frames);
}

/// The text that a reader holds after some events, of every block.
fn texts<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::<String, String>::new();
    for frame in frames {
        match frame.kind.as_str() {
            "text_delta" => texts.entry(frame.text("id").to_owned()).or_default().push_str(frame.text("delta")),
            "custom" if frame.custom() == Some("dispatch.reset") => {
                for block in frame.data["value"]["blocks"].as_array().unwrap() {
                    texts.insert(block["id"].as_str().unwrap().to_owned(), block["text"].as_str().unwrap().to_owned());
                }
            }
            _ => {}
        }
    }
    texts
}

async fn an_expired_cursor_gets_one_reset(world: Arc<World>) {
    let node = world.node();
    let say = |id: &str, words: &str, after: &[&str]| {
        let mut step = ask(id, words);
        step["after"] = json!(after);
        step
    };
    // Two that speak at once, and one after them.
    let slow = "repeat 60 word\nslow 1";
    let all = node.dispatch(&flow(json!([say("a", slow, &[]), say("b", slow, &[]), say("c", "repeat 30 word", &["a", "b"])]))).await.frames;
    let run = all[0].text("executionId").to_owned();
    let paused = node
        .dispatch(&flow(json!([ask("a", "repeat 20 word"), ask_with("b", "call look {}", json!({ "runtimeTools": [local("look")] }))])))
        .await;
    node.with_state(|state| async move { state.feed.shrink(state.clock.now().after(Duration::from_secs(1))).await.unwrap() }).await;
    let small = node.log(&run).await.frames;
    assert!(small.len() * 3 < all.len(), "{} of {} are left", small.len(), all.len());
    assert_eq!(texts(&small), texts(&all), "who reads it all reads the same texts");
    let told = |frames: &[Frame]| frames.iter().filter(|frame| !frame.kind.ends_with("_delta")).cloned().collect::<Vec<_>>();
    assert_eq!(told(&small), told(&all), "nothing but pieces of texts is joined");
    let mut resets = 0;
    for cursor in all.iter().map(|frame| frame.id) {
        let rest = node.events(&run, Some(cursor)).await.rest().await.frames;
        let before = all.iter().take_while(|frame| frame.id <= cursor);
        assert_eq!(texts(before.clone().chain(&rest)), texts(&all), "after {cursor}");
        let ids: Vec<u64> = rest.iter().map(|frame| frame.id).collect();
        assert!(ids.is_sorted_by(|a, b| a < b) && ids.iter().all(|id| *id > cursor), "after {cursor}: {ids:?}");
        let mine = rest.iter().filter(|frame| frame.custom() == Some("dispatch.reset")).count();
        assert!(mine <= 1, "after {cursor}: {mine} resets");
        let untold: Vec<Frame> = rest.iter().filter(|frame| frame.custom() != Some("dispatch.reset")).cloned().collect();
        assert_eq!(told(&untold), told(&all.iter().filter(|frame| frame.id > cursor).cloned().collect::<Vec<_>>()), "after {cursor}");
        resets += mine;
    }
    assert!(resets > 50, "{resets}");
    // The long poll tells the same, and so does another server.
    let inside = all.iter().filter(|frame| frame.kind == "text_delta").nth(7).unwrap().id;
    let page = node.get(&format!("/v1/executions/{run}/events?after={inside}&wait=0")).ok().await;
    assert_eq!(page["events"].as_array().unwrap().iter().filter(|event| event["name"] == "dispatch.reset").count(), 1);
    let node = world.crash().await;
    assert_eq!(node.log(&run).await.frames, small);
    // What has not ended stays as it was told.
    let still = node.log(&paused.run()).await.frames;
    assert_eq!(still[..paused.frames.len()], paused.frames);
}

async fn a_log_that_cannot_be_read_holds_up_no_other(world: Arc<World>) {
    let node = world.node();
    let broken = node.dispatch(&long(60, 1)).await.run();
    let whole = node.dispatch(&long(60, 1)).await;
    assert!(world.meddle("update events set body = '[' where run = $1", &broken).await > 0);
    let shrink =
        async || node.with_state(|state| async move { state.feed.shrink(state.clock.now().after(Duration::from_secs(1))).await }).await;
    assert_eq!(shrink().await.unwrap(), 2, "both were looked at");
    assert_eq!(shrink().await.unwrap(), 0, "and neither is looked at again");
    let small = node.log(&whole.run()).await.frames;
    assert!(small.len() < whole.frames.len(), "{} of {} are left", small.len(), whole.frames.len());
    assert_eq!(texts(&small), texts(&whole.frames));
    node.get(&format!("/v1/executions/{broken}/events?after=0&wait=0")).refused(500, "internal_error").await;
}

async fn a_slow_reader_slows_nobody(world: Arc<World>) {
    let node = world.node();
    // More than sockets hold: whoever waited for this reader would wait for ever.
    let big = "x".repeat(60_000);
    let mut body = flow(json!([]));
    let steps: Vec<Value> =
        (0..80).map(|n| json!({ "id": format!("s{n}"), "type": "send-stream", "config": { "sourceVariable": "big" } })).collect();
    body["flow"]["steps"] = json!(steps);
    body["inputs"] = json!({ "big": big });
    let mut slow = node.open(&body).await;
    let run = slow.until(|frame| frame.kind == "execution_start").await.text("executionId").to_owned();
    // It reads no further; another one follows to the end.
    let quick = node.events(&run, None).await.rest().await.fresh();
    assert_eq!(quick.last().data["successfulSteps"], 80);
    assert_eq!(slow.rest().await.frames, quick.frames, "and it misses nothing");
}
