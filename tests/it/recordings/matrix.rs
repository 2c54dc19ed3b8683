//! The table of vendors and kinds in `docs/providers.md`: a mark where a recording proves the cell. Written anew with `DISPATCH_WRITE_DOCS=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::reading::difference;
use super::{Recording, recordings};

const KINDS: [&str; 11] =
    ["text", "tools", "parallel tools", "reasoning", "JSON", "schema", "refusal", "length", "filter", "error", "usage"];
const BEGIN: &str = "<!-- matrix: begin -->";
const END: &str = "<!-- matrix: end -->";

/// The kinds that an exchange shows.
fn kinds(recording: &Recording) -> BTreeSet<&'static str> {
    let (expected, mut kinds) = (&recording.expected, BTreeSet::new());
    let mut add = |shown: bool, kind: &'static str| {
        if shown {
            kinds.insert(kind);
        }
    };
    let request = recording.request.as_ref().map(ToString::to_string).unwrap_or_default();
    let finish = expected.finish.as_deref().unwrap_or_default();
    let named = |name: &str| recording.feature == name || recording.features.iter().any(|feature| feature == name);
    add(!expected.text.is_empty(), "text");
    add(!expected.tool_calls.is_empty(), "tools");
    add(expected.tool_calls.len() > 1, "parallel tools");
    add(!expected.reasoning.is_empty(), "reasoning");
    add(request.contains("json_object") || (request.contains("application/json") && !request.contains("chema\":{\"type\"")), "JSON");
    add(named("structured") || request.contains("json_schema") || request.contains("esponseJsonSchema"), "schema");
    add(request.is_empty() && finish == "refusal", "refusal");
    add(finish == "length", "length");
    add(finish == "filter", "filter");
    add(expected.error.is_some(), "error");
    add(expected.usage.as_ref().is_some_and(|usage| usage.values().any(|count| *count > 0)), "usage");
    kinds
}

fn table(recordings: &[Recording]) -> String {
    let mut proven: BTreeMap<(String, String), BTreeMap<&'static str, usize>> = BTreeMap::new();
    for recording in recordings {
        let row = proven.entry((recording.vendor.clone(), recording.wire().unwrap_or_default().to_owned())).or_default();
        if difference(recording).is_none() {
            for kind in kinds(recording) {
                *row.entry(kind).or_default() += 1;
            }
        }
    }
    let cells: usize = proven.values().map(BTreeMap::len).sum();
    let mut lines = vec![
        format!("{cells} of {} cells are proven, by {} recordings.", proven.len() * KINDS.len(), recordings.len()),
        String::new(),
        format!("| Vendor | Wire | {} |", KINDS.join(" | ")),
        format!("| --- | --- |{}", " ---: |".repeat(KINDS.len())),
    ];
    for ((vendor, wire), row) in &proven {
        let cells: Vec<String> =
            KINDS.iter().map(|kind| row.get(kind).map_or_else(|| "–".to_owned(), |count| format!("✓ {count}"))).collect();
        lines.push(format!("| {vendor} | {wire} | {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

#[test]
fn the_table_of_vendors_is_the_one_in_the_documents() {
    let recordings = recordings();
    if recordings.is_empty() {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/providers.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (_, tail) = rest.split_once(END).expect("the place for the table ends");
    let fresh = format!("{head}{BEGIN}\n\n{}\n\n{END}{tail}", table(&recordings));
    if std::env::var_os("DISPATCH_WRITE_DOCS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), fresh, "run DISPATCH_WRITE_DOCS=1 cargo nextest run recordings::matrix");
}
