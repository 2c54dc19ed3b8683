//! The sandbox: what scripts can do, and everything they cannot.

use std::time::Duration;

use dispatch::expr::script::{Limits, Sandbox, ScriptError, validate_script};
use serde_json::{Map, Value, json};

use super::{clock, map, sandbox};

async fn run(code: &str) -> Result<Value, ScriptError> {
    run_with(code, json!({ "x": 2, "list": [3, 1, 2], "class": "reserved", "Object": "taken", "name": "Ada" })).await
}

async fn run_with(code: &str, scope: Value) -> Result<Value, ScriptError> {
    sandbox().run(code, map(scope)).await
}

/// A sandbox whose limits are reached quickly.
fn small() -> Sandbox {
    Sandbox::new(
        Limits { time: Duration::from_millis(200), memory: 8 << 20, output: 1_000, ..Limits::default() },
        dispatch::clock::Clock::system(),
    )
}

#[tokio::test(start_paused = true)]
async fn scripts_compute() {
    for (code, wanted) in [
        ("return input.x + variables.x + x", json!(6)),
        ("x * 2", json!(4)),
        ("x * 2;", json!(4)),
        ("({ a: x })", json!({ "a": 2 })),
        ("{ a: 1 }", json!({ "a": 1 })),
        ("const x = 5; return x + input.x", json!(7)),
        ("let name = 'local'; return name", json!("local")),
        ("function list() { return 1 } return list()", json!(1)),
        ("return input['class']", json!("reserved")),
        ("return typeof Object + input.Object", json!("functiontaken")),
        ("return list.sort().map(n => n * 10)", json!([10, 20, 30])),
        ("return await Promise.all([1, Promise.resolve(2), (async () => 3)()])", json!([1, 2, 3])),
        ("const r = []; for await (const v of [1, Promise.resolve(2)]) r.push(v); return r", json!([1, 2])),
        ("return new Promise(resolve => resolve('later'))", json!("later")),
        ("(() => { return 7 })()", json!(7)),
        ("// only a note\nreturn 1 // end", json!(1)),
        ("x // end", json!(2)),
        ("return undefined", Value::Null),
        ("const y = 1", Value::Null),
        ("", Value::Null),
        (
            "return { a: undefined, f() {}, b: [undefined, () => 1], n: NaN, big: 12345678901234567890n, d: new Date(0) }",
            json!({ "b": [null, null], "n": null, "big": 12345678901234567890u64, "d": "1970-01-01T00:00:00.000Z" }),
        ),
        ("return '🦀'.slice(0, 1) + '\\\\ud800'", json!("\u{FFFD}\\ud800")),
        ("return 'a\\u0000b'", json!("a\u{0}b")),
        ("return JSON.parse('{\"__proto__\": 1}')", json!({ "__proto__": 1 })),
        ("try { throw new Error('x') } catch (e) { return e.message }", json!("x")),
        (
            "return [typeof fetch, typeof require, typeof process, typeof setTimeout, typeof Deno, typeof std, typeof os, typeof performance]",
            json!(["undefined", "undefined", "undefined", "undefined", "undefined", "undefined", "undefined", "undefined"]),
        ),
    ] {
        assert_eq!(run(code).await, Ok(wanted), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_variable_called_input_stays_reachable() {
    let scope = json!({ "input": { "city": "Bern", "x": 1 }, "x": 2 });
    assert_eq!(run_with("return [input.city, input.x, variables.input.x]", scope).await, Ok(json!(["Bern", 2, 1])));
}

#[tokio::test(start_paused = true)]
async fn faults_are_told_apart() {
    let thrown = |message: &str, line| Err(ScriptError::Thrown { message: message.into(), line });
    assert_eq!(run("const a = 1;\nthrow new Error('no ' + a)").await, thrown("no 1", Some(2)));
    assert_eq!(run("return missing.field").await, thrown("ReferenceError: missing is not defined", Some(1)));
    assert_eq!(run("throw { code: 5 }").await, thrown("{\"code\":5}", None));
    assert_eq!(run("throw null").await, thrown("null", None));
    assert_eq!(run("return Promise.reject(null)").await, thrown("null", None));
    assert_eq!(run("throw undefined").await, thrown("undefined", None));
    assert_eq!(run("return Promise.reject(new TypeError('bad'))").await, thrown("TypeError: bad", Some(1)));
    assert_eq!(run("const a = {}; a.a = a; return a").await, Err(ScriptError::Output("contains itself".into())));
    assert_eq!(run("return new Promise(() => {})").await, Err(ScriptError::Stalled));
    assert_eq!(run("await new Promise(() => {}); return 1").await, Err(ScriptError::Stalled));
    assert_eq!(run("const f = () => f(); return f()").await, Err(ScriptError::Stack));
    assert!(matches!(run("return (").await, Err(ScriptError::Syntax(_))));
    assert!(matches!(run("}); (function () {").await, Err(ScriptError::Syntax(_))));
    assert!(matches!(run("return import('std')").await, Err(ScriptError::Thrown { .. })));
    let deep = "let a = []; for (let i = 0; i < N; i++) a = [a]; return a";
    assert!(run(&deep.replace('N', "63")).await.is_ok());
    assert!(matches!(run(&deep.replace('N', "64")).await, Err(ScriptError::Output(_))));
    assert!(run(&deep.replace('N', "100000")).await.is_err());
}

#[tokio::test]
async fn endless_work_is_stopped() {
    for code in [
        "while (true) {}",
        "for (;;) { try { while (true) {} } catch {} }",
        "const f = () => Promise.resolve().then(f); await f()",
        "while (true) await null",
        "return /(a+)+$/.test('a'.repeat(40) + 'b')",
        "return { toJSON() { while (true) {} } }",
        "return { get a() { while (true) {} } }",
        "return new Proxy({}, { ownKeys() { while (true) {} } })",
        "[1, 2, 3].sort(() => { while (true) {} })",
        "new Function('while (true) {}')()",
        "eval('while (true) {}')",
        "function* g() { while (true) yield 1 } for (const _ of g()) {}",
        "while (Date.now() < Infinity) {}",
        "async function f() { try { await f() } finally { await f() } } return f()",
    ] {
        let result = small().run(code, Map::new()).await;
        assert!(matches!(result, Err(ScriptError::Timeout(_) | ScriptError::Stack | ScriptError::Memory(_))), "{code}: {result:?}");
    }
}

#[tokio::test]
async fn memory_is_bounded() {
    for code in [
        "const a = []; while (true) a.push(new Array(1000).fill('x'))",
        "let s = 'x'; while (true) s += s",
        "return 'x'.repeat(2 ** 29)",
        "return new Uint8Array(100_000_000).length",
        "return new ArrayBuffer(1e12)",
        "return new Array(50_000_000).fill(0).length",
        "const m = new Map(); for (let i = 0; ; i++) m.set(i, {})",
        "const f = n => Promise.all(Array.from({ length: 1e6 }, () => f(n))); return f(1)",
        "return 'x'.padEnd(1e9)",
        "const a = []; for (;;) { try { a.push('y'.repeat(1e6)) } catch { a.push(1) } }",
    ] {
        let result = small().run(code, Map::new()).await;
        assert!(
            matches!(result, Err(ScriptError::Memory(_) | ScriptError::Timeout(_) | ScriptError::Stack | ScriptError::Thrown { .. })),
            "{code}: {result:?}"
        );
    }
    let result = small().run("const a = []; while (true) a.push(new Array(1000).fill('x'))", Map::new()).await;
    assert_eq!(result, Err(ScriptError::Memory(8 << 20)));
}

#[tokio::test]
async fn the_result_is_bounded() {
    assert_eq!(small().run("return 'x'.repeat(998)", Map::new()).await.map(|value| value.to_string().len()), Ok(1_000));
    assert!(matches!(small().run("return 'x'.repeat(999)", Map::new()).await, Err(ScriptError::Output(_))));
    let long = format!("return 1 //{}", "x".repeat(Limits::default().source));
    assert!(matches!(small().run(&long, Map::new()).await, Err(ScriptError::Syntax(_))));
}

#[tokio::test(start_paused = true)]
async fn time_and_chance_come_from_the_clock() {
    let code = "return [Date.now(), new Date().toISOString(), new Date(2020, 0).getFullYear(), Math.random(), Math.random(), new Date() instanceof Date]";
    let first = sandbox().run(code, Map::new()).await.unwrap();
    let second = sandbox().run(code, Map::new()).await.unwrap();
    assert_eq!(first, second, "the same seed repeats");
    assert_eq!(first[0], 1_700_000_000_000_u64);
    assert_eq!(first[1], "2023-11-14T22:13:20.000Z");
    assert_eq!((&first[2], &first[5]), (&json!(2020), &json!(true)));
    assert_ne!(first[3], first[4]);
    let other = Sandbox::new(Limits::default(), dispatch::clock::Clock::simulated(8, super::NOW)).run(code, Map::new()).await.unwrap();
    assert_ne!(first[3], other[3], "another seed differs");
}

/// In a simulation no time passes while a thread works, so the count of steps must stop an endless loop.
#[tokio::test(start_paused = true)]
async fn an_endless_loop_ends_in_simulated_time() {
    let limits = Limits { time: Duration::from_millis(10), ..Limits::default() };
    let result = Sandbox::new(limits, clock()).run("while (true) {}", Map::new()).await;
    assert_eq!(result, Err(ScriptError::Timeout(limits.time)));
}

#[tokio::test(start_paused = true)]
async fn nothing_survives_a_run() {
    let sandbox = sandbox();
    sandbox.run("globalThis.leak = 1; Array.prototype.leak = 2; JSON.stringify = null; return 1", Map::new()).await.unwrap();
    let seen = sandbox.run("return [typeof leak, typeof [].leak, typeof JSON.stringify]", Map::new()).await;
    assert_eq!(seen, Ok(json!(["undefined", "undefined", "function"])));
}

#[tokio::test(start_paused = true)]
async fn the_console_is_captured() {
    let code = "console.log('a', { b: 1 }, 2); console.error('x'.repeat(5000)); for (let i = 0; i < 500; i++) console.info(i); return 1";
    let output = sandbox().run_logged(code, Map::new()).await.unwrap();
    assert_eq!(output.logs[0], "a {\"b\":1} 2");
    assert_eq!(output.logs[1].len(), 1_000);
    assert_eq!(output.logs.len(), 100);
}

#[tokio::test]
async fn a_busy_script_does_not_block_the_runtime() {
    let sandbox = small();
    let busy = tokio::spawn({
        let sandbox = sandbox.clone();
        async move { sandbox.run("while (true) {}", Map::new()).await }
    });
    let mut turns = 0u32;
    while !busy.is_finished() {
        tokio::task::yield_now().await;
        turns += 1;
    }
    assert!(turns > 100, "the only runtime thread made {turns} turns");
    assert!(matches!(busy.await.unwrap(), Err(ScriptError::Timeout(_))));
}

#[test]
fn syntax_is_checked_without_running() {
    assert_eq!(validate_script("return input.x"), Ok(()));
    assert_eq!(validate_script("while (true) {}"), Ok(()));
    assert_eq!(validate_script("const x = await Promise.resolve(1); return x"), Ok(()));
    assert!(validate_script("}); while (true) {} (function () {").is_err());
    assert!(validate_script("} [Array] = async function anonymous() {").is_err());
    for code in [
        "return 1 })(); while(true){} (function(){",
        "} while (true) {} {",
        "} while (true) {} async function g() {",
        "}, g() {",
        "} } while (true) {} { {",
        "}\n+ function () {",
        "true); while (true) {} (1",
        "1)} while (true) {} { (1",
        "1]} while (true) {} { [1",
        "...[1]",
        "super.x",
        "`",
        "/*",
    ] {
        let fault = validate_script(code);
        assert!(fault.is_err(), "{code}");
        assert!(!fault.unwrap_err().to_string().contains("interrupted"), "{code} ran");
    }
    for code in
        ["with (input) { return x }", "x = 010", "[1, 2]", "{ a: 1 }", "a, b", "({}).x // end", "await x", "-->\n1", "arguments.length"]
    {
        assert_eq!(validate_script(code), Ok(()), "{code}");
    }
    let fault = validate_script("const a = 1;\nconst b = ;\nreturn a").unwrap_err();
    assert_eq!(fault.line, Some(2), "{fault}");
    for (code, says) in
        [("const a: number = 1; return a", "TypeScript"), ("import fs from 'fs'\nreturn 1", "modules"), ("def f():\n  return 1", "Python")]
    {
        let fault = validate_script(code).unwrap_err().to_string();
        assert!(fault.contains(says), "{code}: {fault}");
    }
}

/// Running out of memory at any point is an error of the script, never of the process.
#[tokio::test]
async fn memory_may_run_out_anywhere() {
    let mut outcomes = [0u32; 2];
    for step in 0..80 {
        let limits = Limits { memory: 150_000 + step * 7_919, time: Duration::from_millis(100), ..Limits::default() };
        let sandbox = Sandbox::new(limits, dispatch::clock::Clock::system());
        for code in [
            "const a = []; while (true) a.push({ i: a.length, s: `${a.length}` })",
            "const f = async n => { const x = Array.from({ length: 50 }, (_, i) => i); await null; return [x, await f(n + 1)] }; return f(0)",
            "const m = new Map(); for (let i = 0; ; i++) { m.set({ i }, new Error('x' + i)); }",
            "class A { constructor(n) { this.n = n; this.me = this } } let l = null; for (;;) l = { a: new A(1), l }",
            "return JSON.parse('[' + '[1],'.repeat(20000) + '1]').map(x => /x(y)z/.exec('xyz'))",
            "return list.map(x => x.repeat(100))",
        ] {
            let result = sandbox.run(code, map(json!({ "list": vec!["abc"; 50] }))).await;
            outcomes[usize::from(result.is_ok())] += 1;
            assert!(!matches!(result, Err(ScriptError::Engine)), "{code}: {result:?}");
        }
    }
    assert!(outcomes.iter().all(|count| *count > 20), "{outcomes:?}");
}
