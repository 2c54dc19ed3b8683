//! The examples of docs/api.md: each request is run by `sh` and `curl` as it is written, in the page's order, against a real server, and its
//! response must be the one shown.
//!
//! Only what the page shows is compared: members that it leaves out may be there or not.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use dispatch::secret::Secret;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::app::{Setup, TestApp, within_minutes};
use crate::support::transcript::{Frame, Transcript};

/// Settings of `curl` that the examples need not say: quiet, no proxy, and the status on the last line.
const CURL_SETTINGS: &str = "silent\nshow-error\nmax-time = 60\nnoproxy = \"*\"\nwrite-out = \"\\n%{http_code}\"\n";

/// What a shown string leaves open, and what is left out of a stream or a list.
const ELISION: &str = "…";

/// A fenced block of the page.
struct Block<'p> {
    kind: &'p str,
    code: &'p str,
    line: usize,
}

fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut line = 1;
    let mut found = Vec::new();
    for (index, part) in page.split("```").enumerate() {
        if let Some((kind, code)) = part.split_once('\n').filter(|_| index % 2 == 1) {
            found.push(Block { kind, code, line });
        }
        line += part.matches('\n').count();
    }
    found
}

/// The variables of the shell: those of the server, and those that responses have set.
type Values = HashMap<String, String>;

#[tokio::test]
async fn the_examples_of_the_api_guide_do_what_they_show() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/api.md")).unwrap();
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".curlrc"), CURL_SETTINGS).unwrap();
    let app = TestApp::with(Setup { dev: true, preset: Some(Secret::new("development-key-of-mine")), ..Setup::default() }).await;
    let mut values = Values::from([("SERVICE".to_owned(), silent_service().await)]);
    let mut prelude = String::new();
    let mut compared = 0;
    let mut blocks = blocks(&page).into_iter();
    while let Some(request) = blocks.next() {
        let place = format!("docs/api.md:{}", request.line);
        assert_eq!(request.kind, "sh", "{place}: a response without a request");
        if !request.code.contains("curl ") {
            prelude = format!("{}\nURL=http://{}\n", request.code, app.address);
            continue;
        }
        let script = format!("{prelude}{}", request.code);
        let printed = within_minutes(run(&script, home.path(), &values)).await;
        let response = blocks.next().unwrap_or_else(|| panic!("{place}: a request without a response"));
        if let Err(difference) = compare_response(&response, &printed, &mut values) {
            panic!("{place}: {difference}\nthe server's response:\n{printed}");
        }
        compared += 1;
    }
    assert!(compared >= 45, "only {compared} examples were found");
}

/// Runs a script and returns what it prints.
async fn run(script: &str, home: &Path, values: &Values) -> String {
    let command = Command::new("sh").arg("-c").arg(script).envs(values).env("CURL_HOME", home).kill_on_drop(true).output().await.unwrap();
    let complaint = String::from_utf8_lossy(&command.stderr).into_owned();
    assert!(command.status.success(), "`sh` and `curl` are needed to run this:\n{script}\n{complaint}");
    String::from_utf8(command.stdout).unwrap()
}

/// The address of a service that reads requests and closes their connections.
async fn silent_service() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 16_384];
            let read = connection.read(&mut request).await;
            drop((read, connection));
        }
    });
    address
}

/// Compares what `curl` printed with a response of the page; the first difference.
fn compare_response(shown: &Block<'_>, printed: &str, values: &mut Values) -> Result<(), String> {
    let (body, status) = printed.rsplit_once('\n').ok_or("curl printed no status")?;
    if shown.kind == "http" {
        return compare_message(shown.code, body, values);
    }
    if !status.starts_with('2') {
        return Err(format!("the status is {status}"));
    }
    match shown.kind {
        "json" => compare_json(&parse(shown.code)?, &parse(body)?, "", values),
        "text" => compare_stream(shown.code, body, values),
        other => Err(format!("a request is followed by a block of the kind `{other}`")),
    }
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))
}

/// Compares status, headers and body of a response that was printed with `curl -i`.
fn compare_message(shown: &str, printed: &str, values: &mut Values) -> Result<(), String> {
    let printed = printed.replace("\r\n", "\n");
    let (shown_head, shown_body) = shown.split_once("\n\n").unwrap_or((shown.trim_end(), ""));
    let (head, body) = printed.split_once("\n\n").ok_or("curl printed no headers")?;
    let status = |head: &str| head.split(' ').nth(1).unwrap_or_default().to_owned();
    if status(shown_head) != status(head) {
        return Err(format!("shown {shown_head:?}, found {head:?}"));
    }
    let headers: HashMap<String, &str> =
        head.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value)).collect();
    for (name, value) in shown_head.lines().filter_map(|line| line.split_once(": ")) {
        let found = headers.get(&name.to_lowercase()).ok_or_else(|| format!("the header {name} is missing"))?;
        compare_text(value, found, name, values)?;
    }
    if shown_body.trim().is_empty() { Ok(()) } else { compare_json(&parse(shown_body)?, &parse(body)?, "", values) }
}

/// Compares the events that are shown, in their order; others may be between them where the page says so.
fn compare_stream(shown: &str, printed: &str, values: &mut Values) -> Result<(), String> {
    let mut frames = Transcript::parse(printed.as_bytes()).frames.into_iter();
    let mut others_allowed = false;
    for event in shown.trim().split("\n\n") {
        if event.trim() == ELISION {
            others_allowed = true;
            continue;
        }
        loop {
            let frame = frames.next().ok_or_else(|| format!("the stream ends before the event\n{event}"))?;
            let mut tried = values.clone();
            match compare_event(event, &frame, &mut tried) {
                Ok(()) => {
                    *values = tried;
                    break;
                }
                Err(_) if others_allowed => {}
                Err(difference) => return Err(format!("{difference}, for the event\n{event}")),
            }
        }
        others_allowed = false;
    }
    let left = frames.count();
    if left > 0 && !others_allowed { Err(format!("{left} events follow the last one shown")) } else { Ok(()) }
}

fn compare_event(shown: &str, found: &Frame, values: &mut Values) -> Result<(), String> {
    for line in shown.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => compare_text(id, &found.id.to_string(), "id", values)?,
            Some(("event", kind)) => compare_text(kind, &found.kind, "event", values)?,
            Some(("data", data)) => compare_json(&parse(data)?, &found.data, "", values)?,
            _ => return Err(format!("{line:?} is no line of an event")),
        }
    }
    Ok(())
}

fn compare_json(shown: &Value, found: &Value, at: &str, values: &mut Values) -> Result<(), String> {
    match (shown, found) {
        (Value::String(text), _) if text == ELISION => Ok(()),
        (Value::String(text), Value::String(found)) => compare_text(text, found, at, values),
        (Value::Object(members), Value::Object(found)) => members.iter().try_for_each(|(name, member)| {
            let found = found.get(name).ok_or_else(|| format!("{at}/{name} is missing"))?;
            compare_json(member, found, &format!("{at}/{name}"), values)
        }),
        (Value::Array(entries), Value::Array(found)) => {
            let rest = entries.last().and_then(Value::as_str) == Some(ELISION);
            let wanted = entries.len() - usize::from(rest);
            if found.len() < wanted || found.len() > wanted && !rest {
                return Err(format!("{at} has {} entries, {wanted} are shown", found.len()));
            }
            let mut pairs = entries.iter().take(wanted).zip(found).enumerate();
            pairs.try_for_each(|(index, (entry, found))| compare_json(entry, found, &format!("{at}/{index}"), values))
        }
        _ if shown == found => Ok(()),
        _ => Err(format!("{at}: shown {shown}, found {found}")),
    }
}

/// Compares a string; one that is an unknown variable sets it.
fn compare_text(shown: &str, found: &str, at: &str, values: &mut Values) -> Result<(), String> {
    if let Some(name) = shown.strip_prefix('$').filter(|name| name_length(name) == name.len() && !values.contains_key(*name)) {
        values.insert(name.to_owned(), found.to_owned());
        return Ok(());
    }
    let expected = expand(shown, values);
    if fits(&expected, found) { Ok(()) } else { Err(format!("{at}: shown {expected:?}, found {found:?}")) }
}

/// The length of the variable's name that a text begins with.
fn name_length(text: &str) -> usize {
    text.find(|letter: char| !letter.is_ascii_uppercase()).unwrap_or(text.len())
}

/// The text with the values of its variables.
fn expand(text: &str, values: &Values) -> String {
    let mut parts = text.split('$');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_at(name_length(part));
        match values.get(name) {
            Some(value) => expanded.extend([value.as_str(), rest]),
            None => expanded.extend(["$", part]),
        }
    }
    expanded
}

/// Whether a text is the one shown, with any text in the place of each elision.
fn fits(shown: &str, found: &str) -> bool {
    let mut pieces = shown.split(ELISION);
    let Some(mut rest) = found.strip_prefix(pieces.next().unwrap_or_default()) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn a_response_that_differs_is_noticed() {
    let mut values = Values::from([("FLOW".to_owned(), "flow_1".to_owned())]);
    let found = json!({"id": "flow_1", "name": "A flow", "steps": [1, 2], "cost": 0.5, "more": true});
    for shown in [
        json!({"id": "$FLOW", "steps": [1, 2]}),
        json!({"name": "A …w", "cost": "…", "steps": [1, "…"]}),
        json!({"name": "$NAME"}),
        json!({"name": "$NAME"}),
    ] {
        assert_eq!(compare_json(&shown, &found, "", &mut values), Ok(()), "{shown}");
    }
    assert_eq!(values["NAME"], "A flow");
    for shown in [
        json!({"id": "$NAME"}),
        json!({"name": "a …"}),
        json!({"steps": [1]}),
        json!({"steps": [1, 2, 3, "…"]}),
        json!({"cost": 0.25}),
        json!({"missing": null}),
    ] {
        assert!(compare_json(&shown, &found, "", &mut values).is_err(), "{shown}");
    }
}

#[test]
fn a_stream_that_differs_is_noticed() {
    let event = |id: u64, kind: &str| {
        format!(
            "id: {id}\nevent: {kind}\ndata: {{\"type\":\"{kind}\",\"executionId\":\"exec_1\",\"seq\":{id},\"delta\":\"word {id}\"}}\n\n"
        )
    };
    let found = [event(0, "execution_start"), event(1, "text_delta"), event(2, "text_delta"), event(4, "execution_complete")].concat();
    let shown = |parts: &[&str]| parts.join("\n\n");
    let (start, end) = ("id: 0\nevent: execution_start\ndata: {}", "id: …\nevent: execution_complete\ndata: {\"seq\": 4}");
    let second = "id: 2\nevent: text_delta\ndata: {\"delta\": \"word 2\"}";
    for parts in [&[start, "…"] as &[&str], &[start, "…", second, end], &["…", end]] {
        assert_eq!(compare_stream(&shown(parts), &found, &mut Values::new()), Ok(()), "{parts:?}");
    }
    for parts in [&[start] as &[&str], &[start, second, "…"], &[start, "…", end, second], &["…", second]] {
        assert!(compare_stream(&shown(parts), &found, &mut Values::new()).is_err(), "{parts:?}");
    }
}
