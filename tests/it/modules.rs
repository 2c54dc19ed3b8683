//! Modules without the command line: layers, local actions, and JavaScript through node.

use std::path::Path;

use async_trait::async_trait;
use dispatch::module::{
    ActionFault, ActionOutcome, ActionRegistry, ActivityLog, HttpGate, LocalCall, ModuleRequest, ModuleResponse, RegistryOptions,
    check_payload,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A gate that answers every request with the same response, and remembers the requests.
#[derive(Default)]
struct ScriptedGate {
    status: u16,
    requests: Mutex<Vec<ModuleRequest>>,
}

#[async_trait]
impl HttpGate for ScriptedGate {
    async fn send(&self, request: ModuleRequest) -> Result<ModuleResponse, ActionFault> {
        self.requests.lock().push(request);
        if self.status == 0 {
            return Err(ActionFault::transient("connection refused"));
        }
        Ok(ModuleResponse { status: self.status, body: json!({ "id": 7 }) })
    }
}

/// A log that keeps its lines.
#[derive(Default)]
struct LineLog(Mutex<Vec<String>>);

impl ActivityLog for LineLog {
    fn line(&self, text: &str) {
        self.0.lock().push(text.to_owned());
    }

    fn progress(&self, text: &str) {
        self.0.lock().push(format!("progress {text}"));
    }
}

async fn load(folder: &Path) -> ActionRegistry {
    let cwd = folder.to_owned();
    ActionRegistry::load(&RegistryOptions { home: folder.join("home"), root: cwd.clone(), cwd, case_dir: None }).await
}

/// What an action is called with.
struct Call<'a> {
    registry: &'a ActionRegistry,
    home: &'a Path,
    gate: &'a ScriptedGate,
    log: &'a LineLog,
}

impl Call<'_> {
    async fn perform(&self, action: &str, payload: Value, credential: Option<Value>) -> Result<ActionOutcome, ActionFault> {
        let call = LocalCall {
            home: self.home,
            step_id: "one",
            payload,
            credential,
            runtime: json!({ "run": { "a": 1 } }),
            http: self.gate,
            log: self.log,
        };
        self.registry.find(action).unwrap_or_else(|| panic!("no {action}: {:?}", self.registry.warnings())).call_local(call).await
    }
}

const ENTRY: &str = r#"
import { appendActivity, defineModule, requireCredential } from "dispatchkit";
const any = { jsonSchema: { type: "object" }, safeParse: (value) => ({ success: true, data: { ...value, parsed: true } }) };
const strict = { safeParse: () => ({ success: false, error: { issues: [{ path: ["a"], message: "Required" }] } }) };
console.log("what a module prints is no message");
export default defineModule({
  name: "js", version: "1.0.0",
  actions: {
    open: {
      description: "Open", schema: any, credentialSchema: any,
      async handler(ctx, payload) {
        const { token } = requireCredential(ctx, "js.open");
        const http = ctx.http.withDefaults({ baseUrl: "https://api.example.com/", defaultHeaders: { "X-Token": token } });
        const [one, two] = await Promise.all([http.post("/a", { payload }), http.get("/b", { headers: { accept: "text/plain" } })]);
        appendActivity(ctx, "js.open", { list: [1, 2], nothing: null });
        ctx.progress("half way");
        ctx.runtime.run.b = [two.status];
        return { response: ctx.http.requireOk(one, "open"), exports: { id: one.body.id }, detail: "opened" };
      },
    },
    strict: { description: "Strict", schema: strict, handler: async () => ({}) },
    fail: { description: "Fail", schema: any, handler: async () => { throw new Error("no luck"); } },
  },
});
"#;

#[tokio::test]
async fn a_javascript_action_runs_in_node_with_its_http_on_this_side() {
    if std::process::Command::new("node").arg("--version").output().is_err() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let module = folder.path().join("modules/js");
    std::fs::create_dir_all(&module).unwrap();
    std::fs::write(module.join("module.json"), r#"{ "name": "js", "version": "1.0.0" }"#).unwrap();
    std::fs::write(module.join("index.mjs"), ENTRY).unwrap();
    let registry = load(folder.path()).await;
    assert_eq!(registry.warnings(), &[] as &[String]);
    let (gate, log) = (ScriptedGate { status: 201, ..ScriptedGate::default() }, LineLog::default());
    let call = Call { registry: &registry, home: folder.path(), gate: &gate, log: &log };
    let outcome = call.perform("js.open", json!({ "x": 1 }), Some(json!({ "token": "t" }))).await.unwrap();
    assert_eq!(
        (&outcome.response, &outcome.exports, outcome.detail.as_deref()),
        (&json!({ "id": 7 }), &json!({ "id": 7 }), Some("opened"))
    );
    assert_eq!(outcome.run_patch, json!({ "b": [201] }).as_object().cloned());
    assert_eq!(*log.0.lock(), ["js.open list=1,2", "progress half way"]);
    {
        let requests = gate.requests.lock();
        let post = requests.iter().find(|request| request.method == "POST").unwrap();
        assert_eq!((post.url.as_str(), post.base_url.as_deref()), ("/a", Some("https://api.example.com/")));
        assert_eq!(post.default_headers.get("x-token").map(String::as_str), Some("t"));
        assert_eq!(post.body, Some(json!({ "payload": { "x": 1, "parsed": true } })), "the handler gets the parsed payload");
        assert_eq!(requests.len(), 2);
    }
    let fault = call.perform("js.strict", json!({}), None).await.unwrap_err();
    assert_eq!(fault.message, "payload validation failed: payload.a: Required");
    assert_eq!(call.perform("js.fail", json!({}), None).await.unwrap_err(), ActionFault::new("no luck"));
    let down = ScriptedGate::default();
    let call = Call { gate: &down, ..call };
    let fault = call.perform("js.open", json!({}), Some(json!({ "token": "t" }))).await.unwrap_err();
    assert_eq!(fault, ActionFault::transient("connection refused"), "the gate's fault passes through the handler");
}

#[tokio::test]
async fn memory_is_an_action_like_others() {
    let home = tempfile::tempdir().unwrap();
    let registry = ActionRegistry::builtin();
    let (gate, log) = (ScriptedGate::default(), LineLog::default());
    let call = Call { registry: &registry, home: home.path(), gate: &gate, log: &log };
    call.perform("memory.store", json!({ "namespace": "n", "key": "a.b", "value": 1 }), None).await.unwrap();
    let outcome = call.perform("memory.recall", json!({ "namespace": "n", "key": "a.b" }), None).await.unwrap();
    assert_eq!(outcome.exports["value"], 1);
    assert_eq!(std::fs::read_to_string(home.path().join("memory/n.json")).unwrap(), "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n");
    let fault = call.perform("flow.sleep", json!({ "duration": "1ms" }), None).await.unwrap_err();
    assert!(fault.message.contains("performed by the engine"), "{fault}");
}

#[tokio::test]
async fn two_writers_of_one_namespace_lose_nothing() {
    let home = tempfile::tempdir().unwrap();
    let registry = ActionRegistry::builtin();
    let (gate, log) = (ScriptedGate::default(), LineLog::default());
    let call = Call { registry: &registry, home: home.path(), gate: &gate, log: &log };
    let stores =
        (0..40).map(|index| call.perform("memory.store", json!({ "namespace": "n", "key": format!("k{index}"), "value": index }), None));
    for stored in futures_util::future::join_all(stores).await {
        stored.unwrap();
    }
    let listed = call.perform("memory.list", json!({ "namespace": "n" }), None).await.unwrap();
    assert_eq!(listed.response["count"], 40);
}

#[test]
fn payload_issues_name_the_member() {
    let schema = json!({ "type": "object", "required": ["a"], "properties": { "b": { "items": { "type": "integer" } } } });
    let mut found: Vec<String> = check_payload(&schema, &json!({ "b": [1, "x"] })).into_iter().map(|issue| issue.path).collect();
    found.sort();
    assert_eq!(found, ["a", "b.1"]);
    assert_eq!(check_payload(&schema, &json!(3)).first().map(|issue| issue.path.clone()), Some(String::new()));
}
