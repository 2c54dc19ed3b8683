//! The worker's side: one line in, one line out, until its input ends.

use std::io::{BufRead, Write};

use serde_json::{Value, json};

use super::{Answer, Job, Lang};

/// Faults that are told of one value.
const FAULTS: usize = 20;
/// Memory of one worker, in bytes.
const MEMORY: u64 = 512 << 20;

/// Answers what comes on the standard input. Blocks.
pub fn serve() -> std::io::Result<()> {
    // Beyond the script's own limit there is what is read and written. Where there is no such limit the script's own must do.
    crate::process::bound(MEMORY);
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let Ok(job) = serde_json::from_str::<Job>(&line?) else { return Ok(()) };
        let answer = fitting(answer(&job), job.output);
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

fn answer(job: &Job) -> Answer {
    match job.lang {
        #[cfg(feature = "lua")]
        Lang::Lua => super::lua::run(&job.code, &job.context, job.memory),
        #[cfg(not(feature = "lua"))]
        Lang::Lua => Answer::Thrown { message: "Lua is not part of this build".into(), line: None },
        Lang::Schema => {
            match serde_json::from_str(&job.code).map(|schema| jsonschema::validator_for(&schema).map_err(|error| error.to_string())) {
                Ok(Ok(schema)) => {
                    let value = job.context.get("value").unwrap_or(&Value::Null);
                    let faults =
                        schema.iter_errors(value).take(FAULTS).map(|fault| json!([fault.instance_path().to_string(), fault.to_string()]));
                    Answer::Done(faults.collect())
                }
                Ok(Err(message)) => Answer::Thrown { message, line: None },
                Err(error) => Answer::Thrown { message: error.to_string(), line: None },
            }
        }
        Lang::JsonPath => match serde_json_path::JsonPath::parse(&job.code) {
            Err(fault) => Answer::Thrown { message: fault.to_string(), line: None },
            Ok(path) => {
                let context = Value::Object(job.context.clone());
                let mut found = path.query(&context).all().into_iter().cloned();
                Answer::Done(if is_definite(&job.code) { found.next().unwrap_or_default() } else { found.collect() })
            }
        },
    }
}

fn fitting(answer: Answer, most: usize) -> Answer {
    let Answer::Done(value) = &answer else { return answer };
    match serde_json::to_string(value) {
        Ok(text) if text.len() <= most => answer,
        Ok(_) => Answer::Output(format!("takes more than {most} bytes")),
        Err(error) => Answer::Output(error.to_string()),
    }
}

/// Whether a path leads to one place at most (a singular query, RFC 9535 section 2.3.5): it gives that value, and every other path a list, whatever the
/// data are.
fn is_definite(path: &str) -> bool {
    let (mut quote, mut escaped) = (None, false);
    let mut before = ' ';
    for next in path.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if next == '\\' => escaped = true,
            Some(open) if next == open => quote = None,
            Some(_) => {}
            None if matches!(next, '"' | '\'') => quote = Some(next),
            None if matches!(next, '*' | '?' | ':' | ',') || (next == '.' && before == '.') => return false,
            None => {}
        }
        before = if quote.is_some() { ' ' } else { next };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_path_is_definite_is_seen_in_its_text() {
        for path in ["$", "$.a.b", "$['a*..?']", "$.a[0]['b,c']", "$.a[-1]"] {
            assert!(is_definite(path), "{path}");
        }
        for path in ["$..a", "$.a.*", "$.a[*]", "$.a[?(@.b > 1)]", "$.a[0,1]", "$.a[1:2]", "$['a']..b"] {
            assert!(!is_definite(path), "{path}");
        }
    }
}
