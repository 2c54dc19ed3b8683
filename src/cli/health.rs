//! `dispatch health`: asks a running server whether it takes work, for the health checks of containers.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::output::Output;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::net::{Deadlines, Egress, Policy, Request, Trust};

/// Time limit for the whole call; the server itself waits two seconds for its database.
const TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum size of a refusal that is read, in bytes.
const MAX_BODY: usize = 16 * 1024;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The server's URL. The default is the address that it listens on, on this machine.
    #[arg(long, env = "DISPATCH_URL")]
    server: Option<String>,
    /// The address and port that the server listens on.
    #[arg(long, env = "DISPATCH_LISTEN", default_value = "127.0.0.1:8080")]
    listen: String,
}

/// Succeeds if the server answers that it is ready. Errors: `server_unreachable`, `server_not_ready`.
pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let base = arguments.server.unwrap_or_else(|| own_url(&arguments.listen));
    let base = base.trim_end_matches('/');
    let mut request = Request::new(Method::GET, format!("{base}/readyz"), Trust::Operator);
    request.deadlines = Deadlines { first_byte: TIMEOUT, between_chunks: TIMEOUT, total: TIMEOUT };
    let egress = Egress::new(Policy::default(), Clock::system())?;
    let response = egress.send(request).await.map_err(|error| unreachable(&error.into()))?;
    let status = response.status;
    if !status.is_success() {
        let body: Value = serde_json::from_slice(&response.prefix(MAX_BODY).await).unwrap_or_default();
        let why = body.get("error").and_then(Value::as_str).unwrap_or("no reason was given");
        let message = format!("{base}/readyz answers {status}: {why}");
        return Err(Error::new(Kind::Unavailable, "server_not_ready", message).next("try again; the server's log has the reason"));
    }
    output.say(format_args!("{base} is ready"));
    output.envelope(json!({ "url": base, "status": "ok" }))
}

fn unreachable(error: &Error) -> Error {
    Error::new(Kind::Unavailable, "server_unreachable", error.message().to_owned())
        .next("check --server (DISPATCH_URL) or --listen (DISPATCH_LISTEN), and that the server runs")
}

/// The URL of the server on this machine that listens on an address.
fn own_url(listen: &str) -> String {
    let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "8080"));
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        other => other,
    };
    format!("http://{host}:{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_this_machine() {
        assert_eq!(own_url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(own_url("[::]:80"), "http://[::1]:80");
        assert_eq!(own_url("localhost:9000"), "http://localhost:9000");
    }
}
