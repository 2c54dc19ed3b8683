//! Every form of every language, one line each, in `tests/vectors/expr.json`.

use std::collections::BTreeMap;

use dispatch::expr::{Condition, Document, Escape, Insert, Missing, Scope, Template, TemplateTree};
use dispatch::secret::Secret;
use serde_json::{Map, Value, json};

use super::{clock, map, sandbox};

struct Vectors(Value);

impl Vectors {
    fn load() -> Self {
        Self(serde_json::from_str(include_str!("../../vectors/expr.json")).unwrap())
    }

    fn scope(&self) -> &Map<String, Value> {
        self.0["scope"].as_object().unwrap()
    }

    fn of(&self, name: &str) -> &[Value] {
        self.0[name].as_array().unwrap()
    }
}

fn unresolved(vector: &Value) -> Vec<String> {
    serde_json::from_value(vector.get("unresolved").cloned().unwrap_or_else(|| json!([]))).unwrap()
}

#[test]
fn templates() {
    let vectors = Vectors::load();
    let scope = Scope::new([vectors.scope()]);
    for vector in vectors.of("templates") {
        let source = vector["in"].as_str().unwrap();
        let rendered = Template::parse(source).unwrap_or_else(|fault| panic!("{source}: {fault}")).render(&scope).unwrap();
        assert_eq!(rendered.value, vector["out"], "{source}");
        assert_eq!(rendered.unresolved, unresolved(vector), "{source}");
    }
}

#[test]
fn template_faults_say_what_to_change() {
    for vector in Vectors::load().of("template_errors") {
        let source = vector["in"].as_str().unwrap();
        let fault = Template::parse(source).unwrap_err().to_string();
        assert!(fault.contains(vector["says"].as_str().unwrap()), "{source}: {fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn conditions_run_natively() {
    let vectors = Vectors::load();
    let scope = Scope::new([vectors.scope()]);
    for vector in vectors.of("conditions") {
        let source = vector["in"].as_str().unwrap();
        let condition = Condition::parse(source).unwrap_or_else(|fault| panic!("{source}: {fault}"));
        assert!(!condition.needs_script(), "{source}");
        assert_eq!(condition.eval(&scope, &sandbox()).await.unwrap(), vector["out"] == true, "{source}");
        assert_eq!(condition.eval_native(&scope).unwrap().unwrap(), vector["out"] == true, "{source}");
    }
}

#[cfg(feature = "js")]
#[tokio::test(start_paused = true)]
async fn other_conditions_run_in_the_sandbox() {
    let vectors = Vectors::load();
    let scope = Scope::new([vectors.scope()]);
    for vector in vectors.of("conditions_in_script") {
        let source = vector["in"].as_str().unwrap();
        let condition = Condition::parse(source).unwrap_or_else(|fault| panic!("{source}: {fault}"));
        assert!(condition.needs_script(), "{source}");
        assert_eq!(condition.eval(&scope, &sandbox()).await.unwrap(), vector["out"] == true, "{source}");
    }
}

/// What the native grammar and the sandbox both understand must mean the same in both. Integers beyond 2^53 are left out: in a script they are
/// BigInt, and a literal of a script is rounded.
#[cfg(feature = "js")]
#[tokio::test(start_paused = true)]
async fn native_conditions_agree_with_the_sandbox() {
    let vectors = Vectors::load();
    let plain = |source: &str| !["{{", " in ", "gone", "_internal", "big"].iter().any(|word| source.contains(word));
    let mut compared = 0;
    for vector in vectors.of("conditions").iter().filter(|vector| plain(vector["in"].as_str().unwrap_or_default())) {
        let source = vector["in"].as_str().unwrap();
        let value = sandbox().run(source, vectors.scope().clone()).await.unwrap_or_else(|fault| panic!("{source}: {fault}"));
        assert_eq!(dispatch::expr::truthy(&value), vector["out"] == true, "{source}");
        compared += 1;
    }
    assert!(compared > 30);
}

#[tokio::test(start_paused = true)]
async fn documents() {
    let vectors = Vectors::load();
    let scope = Scope::new([vectors.scope()]);
    for (name, escape) in [("documents", Escape::None), ("html_documents", Escape::Html)] {
        for vector in vectors.of(name) {
            let source = vector["in"].as_str().unwrap();
            let document = Document::parse(source, escape).unwrap_or_else(|fault| panic!("{source}: {fault}"));
            let rendered = document.render(&scope, &clock()).unwrap_or_else(|fault| panic!("{source}: {fault}"));
            assert_eq!(rendered.value, vector["out"], "{source}");
            assert_eq!(rendered.unresolved, unresolved(vector), "{source}");
        }
    }
}

#[test]
fn document_faults_name_tag_and_line() {
    for vector in Vectors::load().of("document_errors") {
        let source = vector["in"].as_str().unwrap();
        let fault = Document::parse(source, Escape::None).unwrap_err();
        assert!(fault.message.contains(vector["says"].as_str().unwrap()), "{source}: {fault}");
        assert_eq!(fault.line, vector["line"].as_u64().map(|line| line as usize), "{source}: {fault}");
    }
}

#[test]
fn inner_layers_hide_outer_ones() {
    let outer = map(json!({ "a": 1, "b": 1 }));
    let inner = map(json!({ "b": 2 }));
    let scope = Scope::new([&outer, &inner]);
    assert_eq!(Template::parse("{{a}}{{b}}").unwrap().render_text(&scope).unwrap(), "12");
    assert_eq!(Value::Object(scope.flatten()), json!({ "a": 1, "b": 2 }));
}

#[test]
fn secrets_are_named_and_counted() {
    let secrets = BTreeMap::from([("key".to_owned(), Secret::new("s3cret")), ("STRIPE".to_owned(), Secret::new("sk"))]);
    let variables = map(json!({ "secrets": { "key": "not this" }, "x": 1 }));
    let scope = Scope::new([&variables]).with_secrets(&secrets);
    let render = |source: &str| Template::parse(source).unwrap().render(&scope).unwrap().value;
    assert_eq!(render("Bearer {{secrets.key}}"), "Bearer s3cret");
    assert_eq!(render("{{secret:STRIPE}}"), "sk");
    assert_eq!(render("{{ secrets.key | upper }}"), "S3CRET");

    let template = Template::parse("{{secret:STRIPE}} {{ secret:OTHER-1 }} {{ secrets.key }} {{ x }}").unwrap();
    assert!(template.uses_secrets());
    assert_eq!(template.managed_secrets().collect::<Vec<_>>(), ["OTHER-1", "STRIPE"]);
    assert_eq!(template.roots().iter().collect::<Vec<_>>(), ["x"]);
    assert_eq!(template.render(&scope).unwrap().unresolved, ["secret:OTHER-1"]);
    // A missing secret is reported whatever was made of it, unless something else stood in for it.
    for (source, unresolved) in [
        ("{{secrets.gone}}", vec!["secrets.gone"]),
        ("Bearer {{ secrets.gone | upper }}", vec!["secrets.gone"]),
        ("{{ secrets.gone || secrets.key }}", vec![]),
        ("{{ secrets.gone ?? 'none' }}", vec![]),
        ("{{ secrets.key || secrets.gone }}", vec![]),
        ("{{ secrets.gone || secret:LOST }}", vec!["secrets.gone", "secret:LOST"]),
        ("{{ (secrets.gone or 'x') ~ secrets.key }}", vec!["secrets.gone"]),
    ] {
        assert_eq!(Template::parse(source).unwrap().render(&scope).unwrap().unresolved, unresolved, "{source}");
    }
    assert!(Template::parse("{{ secrets.key | upper }}").unwrap().uses_secrets());
    assert!(!Template::parse("{{ x }}").unwrap().uses_secrets());

    // Without secrets in the scope, a variable of that name is no way around.
    let bare = Scope::new([&variables]);
    assert_eq!(Template::parse("{{secrets.key}}").unwrap().render(&bare).unwrap().value, Value::Null);
    assert_eq!(Template::parse("{{secrets.key | upper}}").unwrap().render(&bare).unwrap().value, "");
    assert!(!bare.flatten().contains_key("secrets"));
    assert!(Condition::parse("secrets.key == 'x'").unwrap().uses_secrets());
}

#[test]
fn bodies_of_external_tools_insert_typed_json() {
    let variables = map(json!({ "city": "Zü\"rich", "days": 3, "tags": ["a"], "none": null }));
    let scope = Scope::new([&variables]);
    let template =
        Template::parse(r#"{"city":{{city}},"days":{{days}},"tags":{{tags}},"note":"in {{city}}","n":{{none}},"opt":{{opt}}}"#).unwrap();
    let rendered = template.render_with(&scope, Missing::KeepPlaceholder, Insert::Json).unwrap();
    assert_eq!(rendered.value, r#"{"city":"Zü\"rich","days":3,"tags":["a"],"note":"in Zü\"rich","n":null,"opt":{{opt}}}"#);
    assert_eq!(rendered.unresolved, ["opt"]);

    let url = Template::parse("https://x/{{days}}?q={{opt}}").unwrap();
    assert_eq!(url.render_with(&scope, Missing::KeepPlaceholder, Insert::Text).unwrap().value, "https://x/3?q={{opt}}");
    let bare = Template::parse("{{ opt }}").unwrap();
    assert_eq!(bare.render_with(&scope, Missing::KeepPlaceholder, Insert::Text).unwrap().value, "{{ opt }}");
}

#[test]
fn trees_keep_keys_and_report_pointers() {
    let tree = json!({ "{{k}}": ["{{a}}", { "x/y": "n={{a}} {{gone}}" }], "n": 5, "typed": "{{list}}" });
    let variables = map(json!({ "a": 1, "list": [1, 2] }));
    let compiled = TemplateTree::parse(&tree).unwrap();
    let rendered = compiled.render(&Scope::new([&variables])).unwrap();
    assert_eq!(rendered.value, json!({ "{{k}}": [1, { "x/y": "n=1 " }], "n": 5, "typed": [1, 2] }));
    assert_eq!(rendered.unresolved, ["gone"]);
    assert_eq!(compiled.roots().iter().collect::<Vec<_>>(), ["a", "gone", "list"]);
    assert!(TemplateTree::parse(&json!({ "a": [1, "b"] })).unwrap().is_literal());

    let problems = TemplateTree::parse(&json!({ "a": ["{{", { "x/y~": "{{secrets:K}}" }], "b": "{{ok}}" })).unwrap_err();
    let pointers: Vec<&str> = problems.0.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(pointers, ["/a/0", "/a/1/x~1y~0"]);
}

#[test]
fn documents_know_their_own_variables() {
    let document =
        Document::parse("{% assign a = b %}{% for x in items %}{{ x }}{{ a }}{{ forloop.index }}{% endfor %}", Escape::None).unwrap();
    assert_eq!(document.roots().iter().collect::<Vec<_>>(), ["b", "items"]);
}

/// Compiled forms are shared between threads, and evaluating one never ties a task to its thread.
#[test]
fn compiled_forms_cross_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    fn movable<T: Send>(_: T) {}
    shared(&Template::parse("{{ a | upper }}").unwrap());
    shared(&TemplateTree::parse(&json!("{{ a }}")).unwrap());
    shared(&Document::parse("{{ a }}", Escape::None).unwrap());
    let condition = Condition::parse("a").unwrap();
    shared(&condition);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let (empty, sandbox) = (Map::new(), sandbox());
    movable(condition.eval(&Scope::new([&empty]), &sandbox));
}
