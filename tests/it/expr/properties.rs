//! What holds for every source and every value.

use dispatch::expr::{Condition, Document, Escape, Scope, Template};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{clock, map};

/// Text made of the pieces that mean something to one of the languages.
fn source() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{{"),
        Just("}}"),
        Just("{%"),
        Just("%}"),
        Just("{{-"),
        Just("-%}"),
        Just("'"),
        Just("\""),
        Just("("),
        Just(")"),
        Just("["),
        Just("]"),
        Just("."),
        Just("?."),
        Just("a"),
        Just("b-c"),
        Just("0"),
        Just("12e5"),
        Just(" | "),
        Just("||"),
        Just("??"),
        Just("&&"),
        Just("==="),
        Just("<"),
        Just("!"),
        Just("-"),
        Just("+"),
        Just("*"),
        Just(":"),
        Just(","),
        Just(" in "),
        Just(" and "),
        Just("if "),
        Just("endif"),
        Just("for "),
        Just("raw"),
        Just("endraw"),
        Just("comment"),
        Just("case "),
        Just("when "),
        Just("secret:"),
        Just("secrets."),
        Just("upper"),
        Just("\\"),
        Just("\n"),
        Just("é"),
        Just("🦀"),
        Just("`"),
        Just("typeof "),
        Just("true"),
        Just("?"),
        Just("=")
    ];
    prop_oneof![prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat()), any::<String>()]
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9f64).prop_map(Value::from),
        "[a-z{}%' ]{0,8}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn variables() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-d]", json_value(), 1..4).prop_map(|fields| fields.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(source in source(), data in variables()) {
        let scope = Scope::new([&data]);
        if let Ok(template) = Template::parse(&source) {
            let _ = template.render(&scope);
        }
        if let Ok(template) = Template::parse(&format!("{{{{ {source} }}}}")) {
            let _ = template.render(&scope);
        }
    }

    #[test]
    fn documents_do_not_panic(source in source(), data in variables()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        if let Ok(document) = Document::parse(&source, Escape::Html) {
            let _ = document.render(&Scope::new([&data]), &clock());
        }
    }

    #[test]
    fn data_is_never_read_as_a_template(text in "[{}%| a-z'\"#-]{0,40}") {
        let data = map(json!({ "x": text, "a": "no" }));
        let scope = Scope::new([&data]);
        prop_assert_eq!(Template::parse("<{{ x }}>").unwrap().render_text(&scope).unwrap(), format!("<{text}>"));
        prop_assert_eq!(Template::parse("{{ x }}").unwrap().render(&scope).unwrap().value, Value::String(text.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _entered = runtime.enter();
        let document = Document::parse("<{% assign y = x %}{{ y }}>", Escape::None).unwrap();
        prop_assert_eq!(document.render(&scope, &clock()).unwrap().value, Value::String(format!("<{text}>")));
    }

    /// A parenthesis and an identity filter send the same path through the larger engine.
    #[test]
    fn both_engines_read_paths_alike(data in variables(), path in "[a-d](\\.[a-d]|\\[[0-3]\\]){0,4}") {
        let scope = Scope::new([&data]);
        let native = Template::parse(&format!("{{{{ {path} }}}}")).unwrap().render(&scope).unwrap().value;
        let larger = Template::parse(&format!("{{{{ {path} if true else 0 }}}}")).unwrap().render(&scope).unwrap().value;
        prop_assert_eq!(native, larger);
    }

    #[test]
    fn native_conditions_do_not_panic(source in source(), data in variables()) {
        // Only the native half: the sandbox has its own tests.
        let simple = !source.contains(['`', '=', '{', '\\']);
        if simple && let Ok(condition) = Condition::parse(&source) {
            let _ = condition.eval_native(&Scope::new([&data]));
        }
    }
}
