//! The binary at work, and what it said with everything that changes from run to run taken out.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A command line in a world of its own: no environment, and a folder for whatever it leaves behind.
pub struct Shell {
    pub folder: tempfile::TempDir,
}

/// What a command came to.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    hidden: String,
}

impl Shell {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        self.pipe("", arguments)
    }

    /// Runs with something on stdin.
    pub fn pipe(&self, input: &str, arguments: &[&str]) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        Ran { code: output.status.code(), stdout, stderr, hidden: self.folder.path().display().to_string() }
    }

    /// Runs with `--json` and gives the one envelope.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        let envelope: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout));
        assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
        assert_eq!(ran.stderr, "");
        assert_eq!(envelope["ok"], ran.code == Some(0), "{envelope}");
        assert_eq!(envelope["cliVersion"], env!("CARGO_PKG_VERSION"));
        if ran.code != Some(0) {
            assert_eq!(envelope["exitCode"].as_i64(), ran.code.map(i64::from), "{envelope}");
            assert!(envelope["error"]["code"].is_string(), "{envelope}");
        }
        envelope
    }

    /// Writes a file and gives its path.
    pub fn file(&self, name: &str, content: &Value) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch"));
        command.args(arguments).env_clear().env("TMPDIR", self.folder.path()).current_dir(self.folder.path()).stdout(Stdio::piped());
        command
    }
}

/// An example that ships with the project.
pub fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).display().to_string()
}

/// A server in a process of its own, until it is dropped.
pub struct Server {
    child: Child,
    pub url: String,
    pub key: String,
}

impl Server {
    /// Serves from `NAME` in the shell's folder.
    pub fn start(shell: &Shell, data: &str) -> Self {
        Self::start_with(shell, data, &["--log", "off"], &[])
    }

    /// [`Server::start`] with more arguments and environment variables; its log goes to `server.log` in the shell's folder.
    pub fn start_with(shell: &Shell, data: &str, more: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut arguments = vec!["serve", "--dev", "--json", "--listen", "127.0.0.1:0", "--data", data];
        arguments.extend(more);
        let log = std::fs::File::create(shell.path("server.log")).unwrap();
        let mut command = shell.command(&arguments);
        let mut child = command.envs(variables.iter().copied()).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        Self { child, url: text("url"), key: text("apiKey") }
    }

    /// Sends SIGTERM and returns the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Server {
    /// Sends a signal by its name for `kill`.
    pub fn signal(&self, name: &str) {
        assert!(Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Returns the exit code if the server has ended.
    pub fn try_wait(&mut self) -> Option<Option<i32>> {
        self.child.try_wait().unwrap().map(|status| status.code())
    }

    /// Waits for the end and returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|text| redact(&text.replace(&self.hidden, "[folder]")));
        write!(f, "exit {code}")?;
        for (name, text) in [("stdout", stdout), ("stderr", stderr)] {
            if !text.is_empty() {
                write!(f, "\n--- {name}\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// Takes out ids, keys, digests, ports, times and dates.
fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = ' ';
    while let Some(letter) = rest.chars().next() {
        let (length, shown) = variable(before, rest).unwrap_or((letter.len_utf8(), ""));
        let (taken, left) = rest.split_at(length);
        out.push_str(if shown.is_empty() { taken } else { shown });
        before = taken.chars().next_back().unwrap();
        rest = left;
    }
    out
}

/// A part that changes from run to run: its length, and what stands for it.
fn variable(before: char, rest: &str) -> Option<(usize, &'static str)> {
    let run = |text: &str, fits: fn(char) -> bool| text.find(|letter| !fits(letter)).unwrap_or(text.len());
    let word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    if let Some(key) = rest.strip_prefix("dsp_live_") {
        return Some((rest.len() - key.len() + run(key, word), "[key]"));
    }
    if let Some(port) = rest.strip_prefix("127.0.0.1:") {
        return Some((rest.len() - port.len() + run(port, |letter| letter.is_ascii_digit()), "127.0.0.1:[port]"));
    }
    if let Some(id) = rest.strip_prefix('_')
        && run(id, |letter| letter.is_ascii_lowercase() || letter.is_ascii_digit()) == 26
    {
        return Some((27, "_[id]"));
    }
    if let Some(id) = rest.strip_prefix("call_") {
        return Some((rest.len() - id.len() + run(id, |letter| letter.is_ascii_hexdigit()), "call_[id]"));
    }
    if before.is_ascii_alphanumeric() || before == '.' || before == '$' {
        return None;
    }
    if run(rest, |letter| letter.is_ascii_hexdigit()) == 64 {
        return Some((64, "[digest]"));
    }
    let figure = run(rest, |letter| letter.is_ascii_digit() || letter == '.');
    let unit = [" ms", " s"].iter().find(|unit| rest[figure..].starts_with(**unit) && !rest[figure + unit.len()..].starts_with(word));
    if figure > 0
        && let Some(unit) = unit
    {
        return Some((figure + unit.len(), "[time]"));
    }
    let date = run(rest, |letter| letter.is_ascii_digit() || letter == '-');
    (date == 10 && rest.as_bytes()[4] == b'-').then_some((10, "[date]"))
}
