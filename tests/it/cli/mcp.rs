//! `dispatch mcp`: the commands as tools, over standard input and output.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use super::kit::{Kit, tickets};

/// A client of the server in a process.
struct Client {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    requests: u64,
}

impl Client {
    fn connect(kit: &Kit) -> Self {
        let home = kit.path("home");
        let mut command = kit.shell.command(&["mcp", "--home", home.to_str().unwrap()]);
        let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut client = Self { child, input, output, requests: 0 };
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" } });
        assert_eq!(client.request("initialize", &hello)["result"]["serverInfo"]["name"], "dispatch");
        client.send(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        client
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input, "{message}").unwrap();
    }

    fn request(&mut self, method: &str, params: &Value) -> Value {
        self.requests += 1;
        self.send(&json!({ "jsonrpc": "2.0", "id": self.requests, "method": method, "params": params }));
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the server ended");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["id"] == self.requests {
                return message;
            }
        }
    }

    fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.request("tools/call", &json!({ "name": tool, "arguments": arguments }))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_commands_are_tools_that_answer_with_their_documents() {
    let kit = Kit::new();
    kit.write("modules/tickets/module.json", &tickets("0.1.0"));
    let mut client = Client::connect(&kit);
    let listed = client.request("tools/list", &json!({}));
    let tools = listed["result"]["tools"].as_array().unwrap();
    let inspect = tools.iter().find(|tool| tool["name"] == "module_inspect").unwrap();
    assert_eq!(inspect["inputSchema"]["required"], json!(["name"]));
    assert!(!tools.iter().any(|tool| tool["name"] == "serve"), "servers are no tools");
    let answer = client.call("module_inspect", json!({ "name": "tickets" }));
    assert_eq!(answer["result"]["structuredContent"]["actions"][0]["key"], "tickets.open", "{answer}");
    let missing = client.call("memory_inspect", json!({ "namespace": "nobody" }));
    assert_eq!(missing["result"]["isError"], true, "{missing}");
    assert_eq!(missing["result"]["structuredContent"]["code"], "NOT_FOUND");
    let wrong = client.call("memory_inspect", json!({ "namespce": "nobody" }));
    assert_eq!(wrong["error"]["data"]["issues"].as_array().unwrap().len(), 2, "{wrong}");
    assert!(client.call("serve", json!({}))["error"]["message"].as_str().unwrap().contains("no tool"));
}
