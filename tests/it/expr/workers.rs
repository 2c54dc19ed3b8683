//! Scripts and schemas in workers: the same results as in this process, and enforced limits.

use std::time::Duration;

use dispatch::clock::Clock;
use dispatch::expr::script::{Limits, Sandbox, ScriptError, validate_script};
use dispatch::fair::Party;
use serde_json::{Map, Value, json};

use super::map;

const ONE: Party = Party::new(1);
const OTHER: Party = Party::new(2);

fn in_workers(limits: Limits) -> Sandbox {
    Sandbox::new(limits, Clock::system()).with_workers(env!("CARGO_BIN_EXE_dispatch").into())
}

/// Iterates over a length that is only claimed, without ever checking for interrupts.
const NATIVE: &str = "return Array.prototype.reverse.call({ length: 2 ** 53 - 1 })";

#[test]
#[cfg(target_os = "linux")]
fn workers_have_a_lower_priority() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    let niceness = |process: &str| -> i32 {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
        // The name may contain blanks; the state comes after it.
        stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch"));
    // As the server starts it: a larger reserve would not fit the worker's memory limit.
    command.arg("script-worker").env_clear().env("MIMALLOC_ARENA_RESERVE", "32768");
    let mut worker = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let request = b"not a job";
    let head = [u32::try_from(request.len()).unwrap().to_le_bytes(), 5_000_u32.to_le_bytes()].concat();
    worker.stdin.as_mut().unwrap().write_all(&[head.as_slice(), request].concat()).unwrap();
    // Once it answers, it has set its priority.
    worker.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    assert_eq!(niceness(&worker.id().to_string()), (niceness("self") + 5).min(19));
    worker.kill().unwrap();
    worker.wait().unwrap();
}

#[tokio::test]
async fn workers_and_this_process_agree() {
    let limits = Limits { memory: 8 << 20, output: 1_000, ..Limits::default() };
    let (here, there) = (Sandbox::new(limits, Clock::system()), in_workers(limits));
    let scope = map(json!({ "id": 9_007_199_254_740_993_u64, "list": [1, null, { "a": 0.1 }], "text": "grüße 🦀 \u{0}\"\\" }));
    for code in [
        "return input",
        "return [typeof id, id + 1n, String(id), list[2].a + 0.2]",
        "return 123456789012345678901234567890n",
        "return text.slice(0, 7)",
        "return undefined",
        "return { a: undefined, b: [undefined], c: NaN, d: -0, e: 1e300, f: 5e-324 }",
        "return await Promise.all([1, Promise.resolve(2)])",
        "throw new TypeError('bad')",
        "const a = 1;\nreturn missing",
        "throw null",
        "return (",
        "return new Promise(() => {})",
        "const f = () => f(); return f()",
        "const a = []; while (true) a.push(new Array(1000).fill('x'))",
        "const a = {}; a.a = a; return a",
        "let a = []; for (let i = 0; i < 64; i++) a = [a]; return a",
        "return 'x'.repeat(998)",
        "return 'x'.repeat(999)",
        "return '\"'.repeat(400)",
    ] {
        assert_eq!(there.run(code, scope.clone()).await, here.run(code, scope.clone()).await, "{code}");
    }
    let code = "console.log('a', { b: 1 }, 2n); for (let i = 0; i < 200; i++) console.error('\\u0001'.repeat(5000)); return 1";
    assert_eq!(there.run_logged(code, Map::new()).await, here.run_logged(code, Map::new()).await);
    there.run("globalThis.leak = 1; Array.prototype.leak = 2", Map::new()).await.unwrap();
    assert_eq!(there.run("return [typeof leak, typeof [].leak]", Map::new()).await, Ok(json!(["undefined", "undefined"])));
}

#[tokio::test]
async fn a_script_that_ignores_interrupts_is_killed_and_the_next_one_runs() {
    let limits = Limits { time: Duration::from_secs(1), concurrent: 1, ..Limits::default() };
    let sandbox = in_workers(limits);
    for code in [NATIVE, "return [].slice.call({ length: 4294967294 })", "while (true) {}"] {
        let result = sandbox.on_behalf_of(ONE).run(code, Map::new()).await;
        assert!(matches!(result, Err(ScriptError::Timeout(_) | ScriptError::Memory(_))), "{code}: {result:?}");
        assert_eq!(sandbox.on_behalf_of(OTHER).run("return 2", Map::new()).await, Ok(json!(2)));
    }
    assert_eq!(sandbox.run(NATIVE, Map::new()).await, Err(ScriptError::Timeout(limits.time)));
}

#[tokio::test]
async fn an_abandoned_request_frees_its_slot() {
    let sandbox = in_workers(Limits { concurrent: 1, ..Limits::default() });
    let (given_up, turn) = (sandbox.clone(), sandbox.clone());
    let task = tokio::spawn(async move { given_up.run(NATIVE, Map::new()).await });
    // It has the slot once another request waits for it.
    let next = tokio::spawn(async move { turn.run("return 3", Map::new()).await });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    task.abort();
    // Long before the first one would have timed out.
    let told = tokio::time::timeout(Duration::from_secs(4), next).await.unwrap();
    assert_eq!(told.unwrap(), Ok(json!(3)));
}

#[tokio::test]
async fn a_flood_of_one_party_does_not_block_others() {
    let sandbox = in_workers(Limits { time: Duration::from_secs(20), concurrent: 1, ..Limits::default() });
    let flood: Vec<_> = (0..20)
        .map(|_| {
            let sandbox = sandbox.on_behalf_of(ONE);
            tokio::spawn(async move { sandbox.run("while (true) {}", Map::new()).await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert_eq!(sandbox.on_behalf_of(OTHER).run("return 2", Map::new()).await, Ok(json!(2)));
    let served = flood.iter().filter(|task| task.is_finished()).count();
    assert_eq!(served, 0, "a turn is kept for whoever has none");
    flood.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn the_scripts_of_a_document_are_parsed_together() {
    let sandbox = in_workers(Limits { sources: 1_000, ..Limits::default() });
    let compile = |codes: Vec<String>| {
        let sandbox = &sandbox;
        async move { sandbox.compile(|| codes.iter().map(|code| validate_script(code)).collect::<Vec<_>>()).await }
    };
    let texts = |codes: &[&str]| codes.iter().map(|code| (*code).to_owned()).collect::<Vec<_>>();
    assert_eq!(compile(texts(&["return 1", "while (true) {}"])).await.unwrap(), [Ok(()), Ok(())]);
    let read = compile(texts(&["return 1", "const a = 1;\nreturn (", "import x"])).await.unwrap();
    assert!(read[0].is_ok(), "{read:?}");
    assert_eq!(read[1], validate_script("const a = 1;\nreturn ("), "the fault is the same, and at its line");
    assert!(read[2].as_ref().unwrap_err().message.contains("modules"), "{read:?}");
    let refused = compile(vec![format!("return 1 // {}", "x".repeat(1_000))]).await.unwrap_err();
    assert!(refused.code() == "validation_failed" && refused.message().contains("the maximum is 1000"), "{refused:?}");
}

#[tokio::test]
async fn parsing_has_a_time_limit() {
    // Less than a worker needs to start.
    let sandbox = in_workers(Limits { time: Duration::from_millis(1), ..Limits::default() });
    let refused = sandbox.compile(|| validate_script("return 1")).await.unwrap_err();
    assert!(refused.code() == "validation_failed" && refused.message().contains("take longer"), "{refused:?}");
}

#[tokio::test]
async fn an_exponential_schema_is_killed() {
    let sandbox = in_workers(Limits { time: Duration::from_secs(2), concurrent: 1, ..Limits::default() });
    let mut defs: Map<String, Value> = (0..60)
        .map(|level| {
            let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
            (format!("a{level}"), json!({ "allOf": [next, next] }))
        })
        .collect();
    defs.insert("a60".into(), json!({ "type": "string" }));
    let schema = json!({ "properties": { "x": { "$ref": "#/$defs/a0" } }, "$defs": defs });
    let ended = sandbox.on_behalf_of(ONE).judge(&schema, &json!({ "x": "s" })).await.unwrap_err();
    assert_eq!(ended.code(), "script_timeout", "{ended:?}");
    let faults = sandbox.on_behalf_of(OTHER).judge(&json!({ "type": "object", "required": ["a"] }), &json!({ "b": 1 })).await.unwrap();
    assert_eq!((faults.len(), faults[0].0.as_str()), (1, ""));
    assert!(faults[0].1.contains("required"), "{faults:?}");
}
