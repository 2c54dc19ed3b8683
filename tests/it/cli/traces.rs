//! Traces of the real binary, as a collector receives them.

use serde_json::json;

use super::ran::{Server, Shell, example};
use crate::store::site::Schema;
use crate::support::call::{Call, client};
use crate::support::sink::{Reply, Sink};

const COLLECTED: &str = "/v1/traces";

/// What stands behind an attribute's name when its value is a number below 128: the value's field and length, and the number's field.
const SMALL_NUMBER: &str = "\u{12}\u{2}\u{18}";

async fn collector() -> Sink {
    let sink = Sink::start().await;
    sink.on(COLLECTED, [Reply::Answer(200, vec![("content-type", "application/x-protobuf".into())], String::new())]);
    sink
}

/// Whether some batch contains all of these; protobuf writes strings as they are.
fn collected(sink: &Sink, names: &[&str]) -> bool {
    sink.seen(COLLECTED).iter().any(|seen| names.iter().all(|name| seen.body.contains(name)))
}

fn dispatch(shell: &Shell, server: &Server) {
    let step = json!({ "id": "ask", "name": "Ask", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "say hello" } });
    let file = shell.file("request.json", &json!({ "flow": { "name": "Traced", "steps": [step] } }));
    let done = shell.json(&["run", &file, "--server", &server.url, "--key", &server.key]);
    assert_eq!(done["execution"]["status"], "completed", "{done}");
}

/// Spans that are not exported yet are sent before the server ends.
async fn sigterm_flushes_spans(database: Option<&str>) {
    let (sink, shell) = (collector().await, Shell::new());
    let (address, mut more) = (sink.url(""), vec!["--log", "off", "--otlp-endpoint"]);
    more.push(&address);
    more.extend(database.into_iter().flat_map(|database| ["--database-url", database]));
    // Nothing is exported by the timer.
    let server = Server::start_with(&shell, "data", &more, &[("OTEL_BSP_SCHEDULE_DELAY", "600000")]);
    dispatch(&shell, &server);
    assert!(sink.seen(COLLECTED).is_empty());
    assert_eq!(server.terminate(), Some(0));
    assert!(collected(&sink, &["dispatch", "/v1/dispatch", "run", "commit", "step ask"]), "{:?}", sink.seen(COLLECTED));
    // Who sends, and requests in the words of the conventions.
    let words = ["service.instance.id", "service.version", "POST /v1/dispatch", "http.request.method", "http.route"];
    assert!(collected(&sink, &words) && collected(&sink, &["dispatch.run.state", "completed"]), "{:?}", sink.seen(COLLECTED));
    // What models are asked is told in the words of the conventions, without the prompt.
    let words = ["chat echo", "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.response.model"];
    assert!(collected(&sink, &words) && collected(&sink, &["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"]));
    for number in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "dispatch.step.attempt"] {
        let told = format!("{number}{SMALL_NUMBER}");
        assert!(collected(&sink, &[told.as_str()]), "{number} is no number");
    }
    assert!(!collected(&sink, &["say hello"]));
    assert_eq!(sink.seen(COLLECTED)[0].header("content-type"), "application/x-protobuf");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_flushes_spans_on_sqlite() {
    sigterm_flushes_spans(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_flushes_spans_on_postgres() {
    let schema = Schema::create().await;
    sigterm_flushes_spans(Some(&schema.url())).await;
    schema.remove().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_arrive_while_the_server_runs() {
    let (sink, shell) = (collector().await, Shell::new());
    let address = sink.url("/");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", address.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
    let server = Server::start_with(&shell, "data", &["--log", "off"], &variables);
    dispatch(&shell, &server);
    sink.reached(COLLECTED, 1).await;
    drop(server);
}

/// A trace id and a span id that are readable as text.
const TRACE: &str = "trace-of-callers";
const PARENT: &str = "the-span";

fn traceparent() -> String {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("00-{}-{}-01", hex(TRACE), hex(PARENT))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_goes_on_after_a_pause_on_another_server() {
    let (first, second, shell) = (collector().await, collector().await, Shell::new());
    let start = |sink: &Sink| Server::start_with(&shell, "data", &["--log", "off", "--otlp-endpoint", &sink.url("")], &[]);
    let server = start(&first);
    let tool = json!({ "name": "look", "toolType": "local", "parametersSchema": { "type": "object" } });
    let config = json!({ "model": "local/echo", "userPrompt": "call look {}", "tools": { "runtimeTools": [tool] } });
    let body =
        json!({ "streamResponse": false, "flow": { "name": "Pauses", "steps": [{ "id": "ask", "type": "prompt", "config": config }] } });
    let (client, key) = (client(), server.key.clone());
    let post = |server: &Server, path: &str| Call::new(client.post(format!("{}{path}", server.url))).bearer(&key);
    let paused = post(&server, "/v1/dispatch").header("traceparent", traceparent()).json(&body).ok().await;
    assert_eq!(paused["status"], "paused", "{paused}");
    assert_eq!(server.terminate(), Some(0));
    assert!(collected(&first, &[TRACE, PARENT, "POST /v1/dispatch", "chat echo", "dispatch.paused"]), "{:?}", first.seen(COLLECTED));
    let server = start(&second);
    let outputs = json!({ "executionId": paused["executionId"], "toolOutputs": { "look": "seen" }, "streamResponse": false });
    post(&server, "/v1/dispatch/resume").json(&outputs).send().await;
    assert_eq!(server.terminate(), Some(0));
    assert!(collected(&second, &[TRACE, "run", "execute_tool look", "chat echo"]), "{:?}", second.seen(COLLECTED));
    assert!(!collected(&second, &[PARENT]), "what goes on stands below the request that began it, not below its caller");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_sends_is_what_the_operator_says() {
    let (sink, shell) = (collector().await, Shell::new());
    let variables = [("OTEL_SERVICE_NAME", "refunds"), ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7,region=north")];
    let server = Server::start_with(&shell, "data", &["--log", "off", "--otlp-endpoint", &sink.url("")], &variables);
    dispatch(&shell, &server);
    assert_eq!(server.terminate(), Some(0));
    assert!(collected(&sink, &["refunds", "pod-7", "region", "north", "service.version"]), "{:?}", sink.seen(COLLECTED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_nobody_approved_is_no_call() {
    let (sink, shell) = (collector().await, Shell::new());
    let server = Server::start_with(&shell, "data", &["--log", "off", "--otlp-endpoint", &sink.url("")], &[]);
    let request = std::fs::read_to_string(example("02-approval.json")).unwrap();
    let mut request: serde_json::Value = serde_json::from_str(&request).unwrap();
    request["streamResponse"] = json!(false);
    let (client, key) = (client(), server.key.clone());
    let paused = Call::new(client.post(format!("{}/v1/dispatch", server.url))).bearer(&key).json(&request).ok().await;
    assert_eq!(paused["status"], "paused", "{paused}");
    assert_eq!(server.terminate(), Some(0));
    assert!(collected(&sink, &["chat echo", "dispatch.paused"]) && !collected(&sink, &["execute_tool"]), "{:?}", sink.seen(COLLECTED));
}

#[test]
fn an_invalid_endpoint_is_refused_at_the_start() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["serve", "--listen", "127.0.0.1:0", "--otlp-endpoint", "collector:4318"]), @"
    exit 2
    --- stderr
    error: traces cannot be sent to `collector:4318`: it must begin with http:// or https:// and name a host (otlp_endpoint_invalid)
    next: give the base address of the collector's OTLP receiver for HTTP, for example --otlp-endpoint http://127.0.0.1:[port]
    ");
    assert_eq!(std::fs::read_dir(shell.folder.path()).unwrap().count(), 0);
    let ran = shell.run(&["serve", "--listen", "127.0.0.1:0", "--log", "dispatch=loud"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("log_filter_invalid"), "{ran}");
}
