//! Each bound at its value and one above, and the ways around it that were tried on other engines.

use dispatch::error::Error;
use dispatch::expr::{Condition, Document, Escape, Scope, Template, TemplateTree, limits};
use serde_json::{Map, Value, json};

use super::{clock, map};

fn template(source: &str, data: &Map<String, Value>) -> Result<Value, Error> {
    Template::parse(source).map_err(Error::from)?.render(&Scope::new([data])).map(|rendered| rendered.value)
}

fn document(source: &str, data: &Map<String, Value>) -> Result<String, Error> {
    let rendered = Document::parse(source, Escape::None).map_err(Error::from)?.render(&Scope::new([data]), &clock())?;
    Ok(rendered.value.as_str().unwrap().to_owned())
}

fn is_limit<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    result.is_err_and(|error| {
        error.code() == "expression_limit" || error.message().contains("larger than") || error.message().contains("beyond")
    })
}

#[test]
fn output_of_a_template() {
    let half = "x".repeat(limits::OUTPUT / 2);
    let data = map(json!({ "half": half, "one": "x" }));
    assert_eq!(template("{{half}}{{half}}", &data).unwrap().as_str().unwrap().len(), limits::OUTPUT);
    assert!(is_limit(template("{{half}}{{half}}{{one}}", &data)));
    assert!(is_limit(template("{{ half + half + one }}", &data)));
    assert!(is_limit(template("{{ half | replace('x', 'yyy') }}", &data)));
    assert!(is_limit(template("{{ [half, half, half] | join(',') }}", &data)));
    assert!(is_limit(template("{{ [half, half, half] | json }}", &data)));
}

#[test]
fn a_whole_value_may_be_larger_than_text() {
    let data = map(json!({ "big": "x".repeat(limits::OUTPUT + 1) }));
    assert_eq!(template("{{ big }}", &data).unwrap().as_str().unwrap().len(), limits::OUTPUT + 1);
    assert!(is_limit(template("{{ big }} ", &data)));
    let huge = map(json!({ "huge": "x".repeat(limits::COPIED) }));
    assert!(is_limit(template("{{ huge }}", &huge)));
    // Many references to one value add up.
    let tree = TemplateTree::parse(&json!(vec!["{{big}}"; 17])).unwrap();
    assert!(is_limit(tree.render(&Scope::new([&data]))));
    assert!(TemplateTree::parse(&json!(vec!["{{big}}"; 15])).unwrap().render(&Scope::new([&data])).is_ok());
}

#[test]
fn source_of_a_template() {
    assert!(Template::parse(&"x".repeat(limits::SOURCE)).is_ok());
    assert!(Template::parse(&"x".repeat(limits::SOURCE + 1)).is_err());
    let long = |length: usize| Template::parse(&format!("{{{{ '{}' }}}}", "x".repeat(length - 2)));
    assert!(long(limits::EXPRESSION).is_ok());
    assert!(long(limits::EXPRESSION + 1).is_err());
}

#[test]
fn nesting_of_expressions() {
    let nested = |depth: usize| format!("{{{{ {}a{} }}}}", "(".repeat(depth), ")".repeat(depth));
    assert!(Template::parse(&nested(limits::DEPTH - 1)).is_ok());
    assert!(Template::parse(&nested(limits::DEPTH)).is_err());
    assert!(Template::parse(&nested(5_000)).is_err());
    assert!(Template::parse(&format!("{{{{ {}a | upper{} }}}}", "(".repeat(500), ")".repeat(500))).is_err());
    assert!(Template::parse(&format!("{{{{ {}a }}}}", "!".repeat(5_000))).is_err());
    assert!(Condition::parse(&format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000))).is_err());
    let chain = |parts: usize| format!("{{{{ {} }}}}", vec!["a"; parts].join("||"));
    assert!(Template::parse(&chain(200)).is_ok());
    assert!(Template::parse(&chain(limits::NODES)).is_err());
}

#[test]
fn one_step_cannot_allocate_much() {
    let data = map(json!({ "n": 100_000_000, "s": "x" }));
    for source in ["{{ 'x' * 100000000 }}", "{{ s * n }}", "{{ [s] * n }}", "{{ range(100000000) | join }}", "{{ s | indent(100000000) }}"]
    {
        if let Ok(value) = template(source, &data) {
            assert!(value.to_string().len() < 100, "{source} gave {} bytes", value.to_string().len());
        }
    }
    assert!(Template::parse("{{ ('x' * 100000000) | length }}").is_err());
    // Repeating a text by a number of the caller's makes nothing, shown or not.
    for source in ["{{ '-' * n }}", "{{ ('-' * n) | length }}", "{{ (s * n) | length }}", "{{ n * '-' }}"] {
        let made = template(source, &data).unwrap_or_default().to_string();
        assert!(made.len() < 100 && !made.contains("100000000"), "{source} gave {made:.200}");
    }
    assert!(Template::parse(&format!("{{{{ {} | upper }}}}", vec!["s"; 40].join(" ~ "))).is_err());
}

#[tokio::test(start_paused = true)]
async fn fuel_of_a_document() {
    let none = Map::new();
    assert!(document("{% for i in (1..40000) %}{% endfor %}", &none).is_ok());
    assert!(is_limit(document("{% for i in (1..100000) %}{% endfor %}", &none)));
    assert!(is_limit(document("{% for i in (1..9000000000000000000) %}{% endfor %}", &none)));
    let nests = format!("{}x{}", "{% for i in (1..1000) %}".repeat(8), "{% endfor %}".repeat(8));
    assert!(is_limit(document(&nests, &none)));
    let doubling = "{% assign s = 'x' %}{% for i in (1..60) %}{% assign s = s | append: s %}{% endfor %}{{ s | size }}";
    assert!(is_limit(document(doubling, &none)));
    let captured = "{% assign s = 'x' %}{% for i in (1..60) %}{% capture s %}{{ s }}{{ s }}{% endcapture %}{% endfor %}";
    assert!(is_limit(document(captured, &none)));
    let replaced = "{% assign s = 'xx' %}{% for i in (1..60) %}{% assign s = s | replace: 'x', s %}{% endfor %}";
    assert!(is_limit(document(replaced, &none)));
    let lists = "{% assign l = (1..1000) | sort %}{% for i in (1..60) %}{% assign l = l | concat: l %}{% endfor %}";
    assert!(is_limit(document(lists, &none)));
}

#[tokio::test(start_paused = true)]
async fn output_of_a_document() {
    let data = map(json!({ "k": "x".repeat(1024) }));
    let full = document("{% for i in (1..1024) %}{{ k }}{% endfor %}", &data).unwrap();
    assert_eq!(full.len(), limits::OUTPUT);
    assert!(is_limit(document("{% for i in (1..1024) %}{{ k }}{% endfor %}x", &data)));
}

#[tokio::test(start_paused = true)]
async fn nesting_of_a_document() {
    let nested = |depth: usize| format!("{}x{}", "{% if 1 %}".repeat(depth), "{% endif %}".repeat(depth));
    assert_eq!(document(&nested(limits::DEPTH), &Map::new()).unwrap(), "x");
    assert!(Document::parse(&nested(limits::DEPTH + 1), Escape::None).is_err());
    assert!(Document::parse(&nested(10_000), Escape::None).is_err());
    assert!(Document::parse(&format!("{{{{ {}a }}}}", "a[".repeat(10_000)), Escape::None).is_err());
}

/// Sources that make a careless scanner look at the same text again and again.
#[test]
fn hostile_sources_compile_in_linear_time() {
    for source in [
        "{% raw %}".to_owned() + &"{% x ".repeat(200_000),
        "{{ '".repeat(250_000),
        "{{a}}".repeat(200_000),
        "{% if ".repeat(170_000),
        "&".repeat(1_000_000),
    ] {
        let _ = Document::parse(&source, Escape::Html);
        let _ = Template::parse(&source);
    }
}
