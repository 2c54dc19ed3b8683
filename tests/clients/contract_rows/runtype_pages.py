"""Rows of Runtype's routes for pages: client tokens, chats, the history of visitors, and the widget Persona with the documents that it ships."""

from runtype_routes import members
from runtype_runs import NO_TOOL, client_tool
from table import Table, contains, equal
from world import DOUBLE, ECHO, ORIGIN, prompt

ROWS = Table("Runtype")


def token(w, **more):
    body = {"name": w.name("Shop"), "allowedOrigins": [ORIGIN], "agentIds": [w.agent()], "visitorHistory": True, **more}
    return w.post("/v1/client-tokens", body, 201)


class Chat:
    """A page's session of a visitor with one conversation."""

    def __init__(self, w):
        self.token = token(w)["token"]
        self.session = init(w, token=self.token, visitorHistory=True)
        chat(w, self.session["sessionId"], "say hello")

    def listed(self, w):
        headers = {"origin": ORIGIN, "x-visitor-token": self.session["visitor"]["token"]}
        path = f"/v1/client/conversations?sessionId={self.session['sessionId']}"
        return w.get(path, key=None, headers=headers)["data"][0]


def page_call(w, path, body, status):
    return w.post(f"/v1/client/{path}", body, status, key=None, headers={"origin": ORIGIN})


def init(w, status=(200, 201), **body):
    return page_call(w, "init", body, status).json


def chat(w, session, text, status=200, **more):
    messages = [{"role": "user", "content": text}]
    return page_call(w, "chat", {"sessionId": session, "messages": messages, "streamResponse": False, **more}, status)


@ROWS.row("routes", "GET /v1/conversations")
def _(w):
    chat = w.once(Chat)
    contains([one["id"] for one in w.get("/v1/conversations")["conversations"]], chat.listed(w)["id"])


@ROWS.row("routes", "GET /v1/client-tokens")
def _(w):
    made = token(w)["clientToken"]
    listed = w.get("/v1/client-tokens")["clientTokens"]
    (row,) = [one for one in listed if one["id"] == made["id"]]
    members(row, "isActive tokenPrefix")
    equal(w.get(f"/v1/client-tokens/{made['id']}")["clientToken"], row)


@ROWS.row("cors", "disallowed origin: 403 {error, hint}, no grant")
def _(w):
    answer = w.post("/v1/client/init", {"token": token(w)["token"]}, 403, key=None, headers={"origin": "https://elsewhere.example"})
    assert answer["error"] and answer["hint"], answer
    assert "access-control-allow-origin" not in answer.headers, answer.headers


@ROWS.row("client", "…with a hint for people")
def _(w):
    wrong = page_call(w, "init", {"token": "ct_live_wrong"}, 401)
    assert wrong["hint"], wrong


BAD_PAGES = "Bad bodies of `/v1/client/chat` and `/v1/client/resume` | 422 with pointers."


@ROWS.row("client", "chat without messages -> 400", BAD_PAGES)
def _(w):
    session = w.once(Chat).session["sessionId"]
    contains(page_call(w, "chat", {"sessionId": session, "messages": []}, 422).pointers(), "/messages")


@ROWS.row("client", "chat body invalid -> 400 (documented list has no 422)", BAD_PAGES)
def _(w):
    session = w.once(Chat).session["sessionId"]
    contains(page_call(w, "chat", {"sessionId": session}, 422).pointers(), "/messages")


@ROWS.row("client", "client/resume unknown execution -> 404")
def _(w):
    session = w.once(Chat).session["sessionId"]
    for execution in ("exec_1", "exec_01h455vb4pex5vsknk084sn02q"):
        page_call(w, "resume", {"sessionId": session, "executionId": execution, "toolOutputs": {"x": 1}}, 404)


@ROWS.row(
    "client",
    "clientTools:[] on resume replaces the stored set (1.3.3)",
    "other `clientTools` for an execution that is under way: on `/v1/client/resume` they are kept for the session's next message.",
)
def _(w):
    session = w.once(Chat).session["sessionId"]
    tools = {"clientTools": [client_tool("add_cart")], "clientToolsFingerprint": "one"}
    paused = chat(w, session, "call add_cart {}", **tools)
    outputs = {paused["pausedReason"]["toolCallId"]: {"ok": True}}
    body = {"sessionId": session, "executionId": paused["executionId"], "toolOutputs": outputs, "streamResponse": False}
    page_call(w, "resume", {**body, "clientTools": []}, 200)
    equal(chat(w, session, "call add_cart {}")["status"], "completed")


@ROWS.row("history", "init visitorHistory: visitor{id, endUserId, expiresAt, identityStatus, token cvt_…}", "`vt_…`; they are opaque.")
def _(w):
    visitor = w.once(Chat).session["visitor"]
    equal(set(visitor), {"id", "endUserId", "expiresAt", "identityStatus", "token"})
    assert visitor["token"].startswith("vt_"), visitor


@ROWS.row("history", "summary id, title, targetId, preview, messageCount, createdAt, updatedAt (Persona's own fake server)")
def _(w):
    summary = w.once(Chat).listed(w)
    members(summary, "id title targetId preview messageCount createdAt updatedAt")
    assert summary["messageCount"] >= 2 and summary["preview"], summary


@ROWS.row("history", "unknown conversationId -> 404")
def _(w):
    kept = w.once(Chat)
    for conversation in ("mconv_1", "conv_01h455vb4pex5vsknk084sn02q"):
        init(w, 404, token=kept.token, visitorToken=kept.session["visitor"]["token"], conversationId=conversation)


@ROWS.row("client", '429 message limit: hint shown, "Session message limit reached"')
def _(w):
    session = init(w, token=token(w, maxMessagesPerSession=1)["token"])["sessionId"]
    chat(w, session, "say one")
    limited = chat(w, session, "say two", 429)
    equal(limited["error"], "Session message limit reached")
    assert limited["hint"], limited


# The widget, and the documents that its proxy ships


APPROVES = "The session may stand in the place of a key there: `Authorization: Bearer <sessionId>`. Without it the answer is 401, with a text to show."


def approval_of_page(w):
    """The widget sends no credential when it approves; with the session as one the call is approved."""
    agent = w.agent(tools={"runtimeTools": [DOUBLE], "approval": {"require": True, "approver": "end-user"}})
    session = init(w, token=token(w, agentIds=[agent])["token"])["sessionId"]
    asked = chat(w, session, "call double {}")
    reason = asked["pausedReason"]
    body = {"executionId": asked["executionId"], "approvalId": reason["approvalId"], "decision": "approved", "streamResponse": False}
    refused = w.post(f"/v1/agents/{agent}/approve", body, 401, key=None, headers={"origin": ORIGIN})
    assert refused["hint"], refused
    equal(w.post(f"/v1/agents/{agent}/approve", body, 200, key=session, headers={"origin": ORIGIN})["success"], True)


for version in ("4.17 (npm)", "4.18 (repo)"):
    ROWS.add(f"Persona {version} token", "approval card → resolveApproval", approval_of_page, APPROVES)


@ROWS.row(
    "shipped documents",
    "TRAVEL_PLANNER_AGENT (agent) (models replaced by local/echo)",
    NO_TOOL,
)
def _(w):
    agent = {"name": "Travel Planner", "model": ECHO, "systemPrompt": "Plan trips.", "tools": {"toolIds": ["builtin:exa"]}}
    body = {"agent": agent, "messages": [{"role": "user", "content": "Oslo"}]}
    contains(w.dispatch(body, 422).pointers(), "/agent/tools/toolIds/0")


@ROWS.row("shipped documents", "all 21 flows and agents of @runtypelabs/persona-proxy as shipped, and the proxy's own default flow")
def _(w):
    # Sixteen, three and one of them name these models, which no catalogue of `serve --dev` has.
    for model in ("nemotron-3-ultra-550b-a55b", "gemini-3.5-flash", "moonshotai/kimi-k2.7-code"):
        answer = w.run(prompt("say {{user_message}}", model=model), messages=[{"role": "user", "content": "hello"}])
        equal((answer["success"], answer["result"]), (True, "hello"))
        said = w.dispatch({"agent": {"name": "A", "model": model}, "messages": [{"role": "user", "content": "say hello"}]})
        equal((said["success"], said["result"]), (True, "hello"))
