//! A server of the Model Context Protocol, made with the official SDK: tools that count, fail, ask and change their description.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, InputRequiredResult, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};

/// A running server; it ends with the test's process.
pub struct McpServer {
    pub url: String,
    state: Arc<State>,
}

struct State {
    lists: AtomicU32,
    calls: Mutex<Vec<(String, Value)>>,
    keys: Mutex<Vec<String>>,
    description: Mutex<String>,
}

#[derive(Clone)]
struct Handler(Arc<State>);

impl McpServer {
    pub async fn start() -> Self {
        let state = Arc::new(State {
            lists: AtomicU32::new(0),
            calls: Mutex::default(),
            keys: Mutex::default(),
            description: Mutex::new("Counts.".into()),
        });
        let handler = Handler(state.clone());
        let service = StreamableHttpService::new(
            move || Ok(handler.clone()),
            LocalSessionManager::default().into(),
            StreamableHttpServerConfig::default(),
        );
        let router = axum::Router::new().route_service("/mcp", service);
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, state }
    }

    /// How often the tools were asked for.
    pub fn lists(&self) -> u32 {
        self.state.lists.load(Ordering::SeqCst)
    }

    /// The calls that came, with their arguments.
    pub fn calls(&self) -> Vec<(String, Value)> {
        self.state.calls.lock().clone()
    }

    /// The values of `authorization` that came.
    pub fn keys(&self) -> Vec<String> {
        self.state.keys.lock().clone()
    }

    /// Describes the tool `count` otherwise.
    pub fn describe(&self, text: &str) {
        *self.state.description.lock() = text.into();
    }
}

fn tool(name: &'static str, description: String, schema: Value) -> Tool {
    Tool::new(name, description, schema.as_object().cloned().unwrap())
}

impl ServerHandler for Handler {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListToolsResult, ErrorData> {
        self.0.lists.fetch_add(1, Ordering::SeqCst);
        let object = json!({ "type": "object", "properties": {} });
        let number = json!({ "type": "object", "properties": { "n": { "type": "number" } }, "required": ["n"] });
        let mut count = tool("count", self.0.description.lock().clone(), number);
        count.annotations = Some(ToolAnnotations::default().read_only(true));
        Ok(ListToolsResult::with_all_items(vec![
            count,
            tool("fail", "Fails.".into(), object.clone()),
            tool("pay", "Pays.".into(), object.clone()),
            tool("draw", "Draws.".into(), object.clone()),
            tool("order", "Asks how many.".into(), object),
        ]))
    }

    async fn call_tool(&self, call: CallToolRequestParams, context: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        if let Some(parts) = context.extensions.get::<axum::http::request::Parts>()
            && let Some(key) = parts.headers.get("authorization")
        {
            self.0.keys.lock().push(String::from_utf8_lossy(key.as_bytes()).into_owned());
        }
        let arguments = Value::Object(call.arguments.unwrap_or_default());
        self.0.calls.lock().push((call.name.to_string(), arguments.clone()));
        match call.name.as_ref() {
            "count" => Ok(CallToolResult::structured(json!({ "next": arguments["n"].as_i64().unwrap_or_default() + 1 })).into()),
            "fail" => Ok(CallToolResult::error(vec![ContentBlock::text("no such luck")]).into()),
            "draw" => {
                let link = json!({ "type": "resource_link", "uri": "https://art.example/1", "name": "The original" });
                let blocks =
                    json!([{ "type": "text", "text": "drawn" }, { "type": "image", "data": "iVBORw==", "mimeType": "image/png" }, link]);
                Ok(CallToolResult::success(serde_json::from_value(blocks).unwrap()).into())
            }
            "pay" => Ok(CallToolResult::success(vec![ContentBlock::text("paid")]).into()),
            "order" => match call.input_responses.as_ref().and_then(|answers| answers.get("amount")) {
                None => {
                    let schema = json!({ "type": "object", "properties": { "amount": { "type": "integer" } }, "required": ["amount"] });
                    let question =
                        json!({ "method": "elicitation/create", "params": { "message": "How many?", "requestedSchema": schema } });
                    let question = serde_json::from_value(question).unwrap();
                    let questions = [("amount".to_owned(), question)].into_iter().collect();
                    Ok(InputRequiredResult::new(Some(questions), Some("remember".into())).into())
                }
                Some(answer) => {
                    let text = format!("{} {} {:?}", answer["action"], answer["content"]["amount"], call.request_state);
                    Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
                }
            },
            _ => Err(ErrorData::invalid_params("no such tool", None)),
        }
    }
}
