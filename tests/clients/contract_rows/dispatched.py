"""Rows of dispatched.work: its published pages, and the contract that is derived from them."""

import base64
import json
import os
import subprocess

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from table import Table, contains, equal
from world import BINARY, KEY

ROWS = Table("Dispatched")

LISTS = (
    "gives it only when the path can lead to one place at most; every other path gives a list, so the shape does not hang on the data"
)


def workflow(w, steps, **document):
    """Saves a workflow and gives its name."""
    name = w.name("rows").replace(" ", "-")
    w.put(f"/api/workflows/{name}", {"name": name, "version": 1, "triggers": [{"type": "http"}], "steps": steps, **document})
    return name


def ran(w, steps, body=None, status=200, **document):
    """Runs a workflow to its end and gives the run and its events."""
    started = w.post(f"/workflows/{workflow(w, steps, **document)}", body or {}, status)
    run = started.headers["dispatched-run"]
    return w.get(f"/api/runs/{run}"), w.get(f"/api/runs/{run}/events")["events"]


def of_type(events, kind):
    found = [event for event in events if event["type"] == kind]
    assert found, f"no {kind} among {[event['type'] for event in events]}"
    return found


def request(w, path, **rest):
    return {"request": {"method": "POST", "url": w.site + path, **rest}}


def derive(secret, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)


def b64(data):
    return base64.b64encode(data).decode()


def open_session(w):
    """A handshake by section 5 of the contract alone: `confirm` has `handshake_id` and `sealed_key`."""
    tenant = w.get("/api/session")["tenant_id"]
    own, nonce = X25519PrivateKey.generate(), os.urandom(16)
    public = b64(own.public_key().public_bytes_raw())
    body = {"tenant_id": tenant, "api_key": KEY, "client_public_key": public, "nonce": b64(nonce)}
    begun = w.post("/api/session", body, 200, key=None)
    theirs = X25519PublicKey.from_public_bytes(base64.b64decode(begun["server_public_key"]))
    salt = nonce + base64.b64decode(begun["nonce"])
    session_key = derive(own.exchange(theirs), salt, b"dispatched/session/v1" + tenant.encode())
    wrapping_key = derive(os.urandom(32), tenant.encode(), b"dispatched/wrap/v1")
    seal_nonce = os.urandom(12)
    sealed = AESGCM(session_key).encrypt(seal_nonce, wrapping_key, begun["handshake_id"].encode())
    confirm = {"handshake_id": begun["handshake_id"], "sealed_key": {"nonce": b64(seal_nonce), "ciphertext": b64(sealed)}}
    return w.post("/api/session/confirm", confirm, 200, key=None)["session"]


@ROWS.row("session", "handshake by a client written from section 5 alone (confirm = handshake_id + sealed_key)")
def _(w):
    session = w.once(open_session)
    assert session.startswith("dst_sess_"), session
    w.get("/api/workflows", key=None, headers={"dispatched-session": session})


@ROWS.row("session", "handshake with fields missing -> 400")
def _(w):
    equal(w.post("/api/session", {"tenant_id": "x"}, 400, key=None)["code"], "validation_failed")
    equal(w.post("/api/session/confirm", {"handshake_id": "x"}, 400, key=None)["code"], "validation_failed")


@ROWS.row("headers", "traceparent [inf]")
def _(w):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    name = workflow(w, {"a": request(w, "/traced")})
    w.post(f"/workflows/{name}", {}, 200, headers={"traceparent": trace})
    contains(w.asked("/traced")[0]["headers"]["traceparent"], trace.split("-")[1])


@ROWS.row("run object", "members of 4.3")
def _(w):
    run, _ = ran(w, {"a": request(w, "/run")})
    members = "id workflow version status trigger started_at completed_at current_steps steps result error compensation last_event"
    equal(set(members.split()) - set(run.json), set())
    equal({"status", "attempts", "started_at", "completed_at"} - set(run["steps"]["a"]), set())
    answered, _ = ran(w, {"a": request(w, "/run")}, response={"body": {"n": 7}})
    contains(repr(answered["result"]), "7")


@ROWS.row("events", "event members seq, type, at, data")
def _(w):
    _, events = ran(w, {"a": {**request(w, "/fails"), "retry": {"on": [500], "max": 1, "delay": "1ms"}}}, status=502)
    of_type(events, "step.retrying")
    for event in events:
        equal({"seq", "type", "at", "data"} - set(event), set())


@ROWS.row("events", "types of the order run")
def _(w):
    _, events = ran(w, {"a": request(w, "/order")})
    equal([event["type"] for event in events], ["run.created", "run.started", "step.started", "step.completed", "run.completed"])


@ROWS.row("events", "step.started data: method, url, redacted headers, body")
def _(w):
    _, events = ran(w, {"a": request(w, "/started", headers={"authorization": "Bearer hidden"}, body={"n": 1})})
    data = of_type(events, "step.started")[0]["data"]
    equal((data["method"], data["url"], data["body"]), ("POST", f"{w.site}/started", {"n": 1}))
    assert "authorization" in data["headers"] and "hidden" not in repr(data), data


@ROWS.row("events", "step.completed data: status, headers, body, duration_ms")
def _(w):
    _, events = ran(w, {"a": request(w, "/completed")})
    data = of_type(events, "step.completed")[0]["data"]
    equal((data["status"], data["body"]["amount"], type(data["duration_ms"])), (200, 3, int))
    contains(data["headers"], "content-type")


@ROWS.row("events", "step.failed{will_retry} and step.retrying{delay_ms,next_attempt}")
def _(w):
    _, events = ran(w, {"a": {**request(w, "/fails"), "retry": {"on": [500], "max": 1, "delay": "1ms"}}}, status=502)
    equal([event["data"]["will_retry"] for event in of_type(events, "step.failed")], [True, False])
    data = of_type(events, "step.retrying")[0]["data"]
    equal((data["next_attempt"], type(data["delay_ms"])), (2, int))


def as_curl(w, method, path, text, kind, session=True):
    headers = {"content-type": kind} if kind else {}
    headers |= {"dispatched-session": w.once(open_session)} if session else {"authorization": f"Bearer {KEY}"}
    return w.http.request(method, path, content=text.encode(), headers=headers)


@ROWS.row(
    "secrets",
    "the public page's own curl (`curl -X PUT …/api/secrets/STRIPE_KEY -H Dispatched-Session -d '{\"value\": …}'`,"
    " no Content-Type, so curl says form-urlencoded)",
)
def _(w):
    text = '{"value": "sk_live_x"}'
    found = as_curl(w, "PUT", "/api/secrets/STRIPE_KEY", text, "application/x-www-form-urlencoded")
    equal(found.status_code, 201)
    contains(w.get("/api/secrets").text, "STRIPE_KEY")


@ROWS.row("yaml", "PUT without any Content-Type")
def _(w):
    name = w.name("yaml").replace(" ", "-")
    text = f"name: {name}\nversion: 1\ntriggers:\n  - type: http\nsteps:\n  a:\n    request:\n      url: {w.site}/yaml\n"
    equal(as_curl(w, "PUT", f"/api/workflows/{name}", text, None).status_code, 201)
    equal(w.get(f"/api/workflows/{name}")["steps"]["a"]["request"]["url"], f"{w.site}/yaml")


@ROWS.row("document", "name not kebab -> 422")
def _(w):
    body = {"name": "Bad_Name", "version": 1, "steps": {"a": request(w, "/x")}}
    contains(w.put("/api/workflows/Bad_Name", body, 422).pointers(), "/name")


ITEMS = {"items": [{"sku": "a", "price": 50, "qty": 1}, {"sku": "b", "price": 150, "qty": 2}], "n": 5}


def evaluates(block, wanted):
    """The block as a value of a body: what the service is sent."""

    def check(w):
        ran(w, {"a": request(w, "/value", body={"value": block})}, ITEMS)
        equal(json.loads(w.asked("/value")[0]["body"]), {"value": wanted})

    return check


for path, wanted in (("$.trigger.body.items[?(@.price > 100)]", [ITEMS["items"][1]]), ("$.trigger.body.items[?(@.qty > 1)].sku", ["b"])):
    ROWS.add("expressions", f'{{"expr": "{path}", "lang": "jsonpath"}}', evaluates({"expr": path, "lang": "jsonpath"}, wanted), LISTS)
ROWS.add("expressions", '{"expr": "trigger.body.n"}', evaluates({"expr": "trigger.body.n"}, 5))


@ROWS.row("strategies", "the public docs' fan-out line `\"over\": \"steps.get.response.body.items\"` registers")
def _(w):
    over = {"type": "fan_out", "over": "steps.get.response.body.items", "concurrency": 5}
    each = {"after": ["get"], "strategy": over, **request(w, "/each", body={"sku": "{{ item.sku }}"})}
    run, _ = ran(w, {"get": request(w, "/items"), "each": each})
    equal(run["status"], "completed")
    equal(len(w.asked("/each")), 2)


@ROWS.row("strategies", "reduce with a request, the docs' Lua sample with `result.amount`")
def _(w):
    strategy = {"type": "reduce", "over": "trigger.body.items", "initial": 0, "expr": "return acc + result.amount", "lang": "lua"}
    after = {"after": ["sum"], **request(w, "/total", body={"total": "{{ steps.sum.result }}"})}
    ran(w, {"sum": {"strategy": strategy, **request(w, "/reduced")}, "tell": after}, ITEMS)
    equal(json.loads(w.asked("/total")[0]["body"]), {"total": 6})


@ROWS.row(
    "sealed",
    'seed: "All tenant data is encrypted at rest" for the first tenant',
    "the first tenant's data are not encrypted, its secrets are; `dispatch tenants create --encryption` makes tenants whose data are",
)
def _(w):
    w.put("/api/secrets/AT_REST", {"value": "secret-at-rest-7f3a"}, 201)
    ran(w, {"a": request(w, "/rest", body="{{ trigger.body }}")}, {"marker": "input-at-rest-7f3a"})
    kept = b"".join(file.read_bytes() for file in w.folder.rglob("*") if file.is_file())
    equal((b"input-at-rest-7f3a" in kept, b"secret-at-rest-7f3a" in kept), (True, False))
    command = [BINARY, "--json", "tenants", "create", "--data", str(w.folder), "--name", "acme", "--encryption", "zero-knowledge"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stdout + made.stderr
