//! Examples of requests: for each operation that most callers begin with, a body that is accepted as it stands.

use serde_json::{Value, json};

/// The example of an operation's body, by the operation's id. Ids in it are those of a made-up tenant.
pub fn example_of(operation: &str) -> Option<Value> {
    Some(match operation {
        "dispatch" => json!({
            "flow": {
                "name": "Sales Analysis",
                "steps": [{
                    "id": "analyze", "name": "Analyze Sales", "type": "prompt",
                    "config": {
                        "model": "local/echo", "userPrompt": "Analyze the sales of {{_record.metadata.quarter}} for {{audience}}.",
                        "outputVariable": "analysis",
                    },
                }],
            },
            "record": { "type": "report", "name": "Q4 Sales Report", "metadata": { "quarter": "Q4 2024", "revenue": "$2.5M" } },
            "inputs": { "audience": "the board" },
            "options": { "streamResponse": false },
        }),
        "createChatCompletion" => json!({
            "model": "local/echo", "messages": [{ "role": "user", "content": "Say hello." }], "temperature": 0.2,
            "dispatch": { "budget": { "maxTokens": 10000 } },
        }),
        "createResponse" => json!({
            "model": "local/echo", "instructions": "Be brief.", "input": "Say hello.", "max_output_tokens": 500, "metadata": { "order": "o-7" },
        }),
        "createEmbedding" => json!({ "model": "local/words", "input": ["red wine", "the sea at night"] }),
        "deleteExecutions" => json!({ "status": "completed", "until": "2026-01-01T00:00:00Z" }),
        "putRetention" => json!({ "executions": "30d", "conversations": "365d", "events": null }),
        "approveDispatch" | "approveAgent" => {
            json!({ "executionId": EXECUTION, "approvalId": WAIT, "decision": "approved", "streamResponse": false })
        }
        "resumeDispatch" | "resumeAgent" => {
            json!({ "executionId": EXECUTION, "toolOutputs": { "call_1": { "temperature": 21 } }, "streamResponse": false })
        }
        "continueDispatch" => json!({
            "executionId": EXECUTION, "continuation": { "approvalId": WAIT, "decision": "denied", "reason": "too expensive" },
            "streamResponse": false,
        }),
        "sendSignal" => json!({ "paid": true }),
        "settleEffect" => json!({ "waitId": WAIT, "outcome": "succeeded", "result": { "id": "ch_1" } }),
        "ensureFlow" => json!({
            "name": "Summary",
            "definition": {
                "name": "Summary",
                "steps": [{ "name": "Summarize", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "Summarize: {{text}}" } }],
            },
            "release": "publish",
        }),
        "ensureAgent" => json!({
            "name": "Helper", "definition": { "name": "Helper", "config": { "model": "local/echo", "systemPrompt": "Be brief." } },
            "deploy": { "alias": "live" },
        }),
        "createFlow" | "updateFlow" | "patchFlow" => json!({
            "name": "Summary",
            "steps": [{
                "id": "summarize", "name": "Summarize", "type": "prompt",
                "config": { "model": "local/echo", "userPrompt": "Summarize: {{text}}", "outputVariable": "summary" },
                "retry": { "maxAttempts": 3, "delayMs": 500 },
            }],
        }),
        "publishFlow" | "publishFlowVersion" | "publishAgent" | "publishAgentVersion" => json!({}),
        "addFlowStep" => json!({
            "name": "Shorten", "type": "prompt", "order": 1,
            "config": { "model": "local/echo", "userPrompt": "Shorten: {{summary}}", "outputVariable": "short" },
        }),
        "validateFlow" => json!({
            "name": "Summary",
            "steps": [{ "name": "Summarize", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "Summarize: {{text}}" } }],
        }),
        "validateTemplate" | "validateLiquid" => json!({ "template": "<h1>{{ title | upcase }}</h1>" }),
        "validateScript" => json!({ "code": "return input.items.length;" }),
        "activateAgentAlias" | "moveAgentRelease" => json!({ "versionId": VERSION }),
        "createAgent" | "updateAgent" => json!({
            "name": "Support",
            "config": { "model": "local/echo", "systemPrompt": "You answer questions about orders.", "loopConfig": { "maxTurns": 5 } },
        }),
        "executeAgent" => {
            json!({ "messages": [{ "role": "user", "content": "Where is my order?" }], "options": { "streamResponse": false } })
        }
        "createRecord" => json!({ "type": "customer", "name": "Ada Lovelace", "metadata": { "plan": "pro", "seats": 3 } }),
        "patchRecord" | "updateRecord" => json!({ "metadata": { "plan": "free", "seats": 1 } }),
        "importRecords" | "uploadRecords" => json!({ "type": "customer", "csv": "name,plan\nAda Lovelace,pro\n" }),
        "previewRecordFilter" => json!({ "type": "customer", "where": { "field": "plan", "op": "eq", "value": "pro" } }),
        "editRecords" => json!({
            "recordFilter": { "type": "customer", "where": { "field": "plan", "op": "eq", "value": "pro" } },
            "metadata": { "seats": 5 }, "dryRun": true,
        }),
        "runFlowOnRecordType" => json!({ "recordType": "customer", "limit": 10 }),
        "createBatch" => json!({ "flowId": FLOW, "recordType": "customer", "limit": 10 }),
        "submitBatch" => {
            json!({ "flowId": FLOW, "records": [{ "type": "customer", "name": "Ada Lovelace", "metadata": { "plan": "pro" } }] })
        }
        "searchRecords" => json!({ "type": "customer", "limit": 20 }),
        "createApiKey" => json!({ "name": "reporting", "scopes": ["FLOWS:READ"] }),
        "putLimits" | "putApiKeyLimits" => json!({
            "budgets": [{ "period": "day", "maxTokens": 2_000_000 }, { "period": "month", "maxCost": 50.0 }],
            "rateLimit": { "requestsPerMinute": 600, "tokensPerMinute": 500_000, "concurrent": 20 },
        }),
        "putCredential" => json!({ "apiKey": "sk-of-the-provider" }),
        "createSecret" => json!({ "key": "CRM_TOKEN", "value": "kept-and-never-shown", "description": "Of the customer database" }),
        "createTool" => json!({
            "name": "add", "description": "Adds two numbers.", "toolType": "custom",
            "parametersSchema": {
                "type": "object", "properties": { "a": { "type": "number" }, "b": { "type": "number" } }, "required": ["a", "b"],
            },
            "config": { "code": "return a + b;" },
        }),
        "createSchedule" => json!({
            "name": "Every weekday", "target": { "flowId": FLOW },
            "trigger": { "type": "recurring", "cron": "0 8 * * 1-5", "timezone": "Europe/Berlin" }, "inputs": { "text": "the news" },
        }),
        "enqueueJob" => json!({ "name": "Summary", "payload": { "text": "A long text" }, "queue": "reports", "max_retries": 5 }),
        "createCron" => json!({ "name": "nightly", "schedule": "0 3 * * *", "timezone": "Europe/Berlin", "job_name": "Summary" }),
        "createTrigger" => json!({ "name": "repository", "scheme": "none", "job_name": "Summary", "queue": "reports" }),
        "createWebhook" => {
            json!({ "url": "https://hooks.example/dispatch", "events": ["run.failed", "run.paused"], "description": "On-call" })
        }
        "publishEventForRuns" => json!({ "name": "order.paid", "payload": { "order": "o-7" } }),
        "startWorkflow" => json!({ "input": { "text": "A long text" } }),
        "createClientToken" => json!({ "name": "Shop", "allowedOrigins": ["https://shop.example"], "agentIds": [AGENT] }),
        "createEval" | "submitEval" => json!({
            "name": "Greetings",
            "target": { "flow": { "name": "Greet", "steps": [{
                "id": "greet", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "Say hello to {{name}}." },
            }] } },
            "cases": [{ "name": "Ada", "inputs": { "name": "Ada" } }],
            "graders": [{ "type": "no_error" }],
        }),
        "streamEval" => json!({
            "flowId": FLOW, "records": [{ "type": "customer", "name": "Ada Lovelace", "metadata": { "plan": "pro" } }],
            "modelOverrides": [{ "stepName": "Summarize", "model": "local/echo" }],
        }),
        "compareEvalRecord" => json!({ "evalGroupId": EVAL, "recordId": "Ada Lovelace" }),
        "putHttpWorkflow" => json!({
            "name": "process-order", "version": 1,
            "steps": {
                "charge": { "request": { "url": "https://payments.example/charges", "method": "POST", "body": { "order": "{{ trigger.body.id }}" } } },
            },
        }),
        "triggerHttpWorkflow" => json!({ "id": "o-7" }),
        "putHttpSecret" => json!({ "value": "kept-and-never-shown" }),
        "publishEvent" => json!({ "event": "order.paid", "body": { "order": "o-7" } }),
        _ => return None,
    })
}

const EXECUTION: &str = "exec_01jg0000000000000000000000";
const WAIT: &str = "wait_01jg0000000000000000000000";
const FLOW: &str = "flow_01jg0000000000000000000000";
const VERSION: &str = "fver_01jg0000000000000000000000";
const EVAL: &str = "evalgrp_01jg0000000000000000000000";
const AGENT: &str = "agent_01jg0000000000000000000000";
