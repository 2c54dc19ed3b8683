"""Rows of the admin API of xraph/dispatch, and the transports of its clients for Go, TypeScript and Python."""

import base64
import os
import socket
from urllib.parse import urlsplit

from table import Table, equal
from world import KEY, prompt

ROWS = Table("xraph admin")

ERRORS = "`error` is the original's text for objects that are missing; `code` and `retryable` stand beside it"
JOB, RUN = "job_01h455vb4pex5vsknk084sn02q", "wfrun_01h455vb4pex5vsknk084sn02q"


def missing(path, text):
    """A missing object is 404 with the original's text; `code` and `retryable` are the only members beside it."""

    def check(w):
        answer = w.get(path, 404)
        if text:
            equal(answer["error"], text)
        equal((set(answer.json), answer["code"]), ({"error", "code", "retryable"}, "not_found"))

    return check


for path, item, text in (
    (f"/v1/jobs/{JOB}", "jobs/{unknown}", "job not found"),
    (f"/v1/workflows/runs/{RUN}", "workflows/runs/{unknown}", "run not found"),
):
    ROWS.add("404", f'GET /v1/{item} body error == "{text}" (seed\'s literal)', missing(path, text))
for path, item in (
    (f"/v1/jobs/{JOB}", "jobs"),
    ("/v1/dlq/dlq_01h455vb4pex5vsknk084sn02q", "dlq"),
    ("/v1/crons/cron_01h455vb4pex5vsknk084sn02q", "crons"),
    (f"/v1/workflows/runs/{RUN}", "workflows/runs"),
):
    ROWS.add("404", f'GET /v1/{item}/{{unknown}} body is exactly {{"error":…}}', missing(path, None), ERRORS)


@ROWS.row("alias", "/api/dispatch/v1/… (prose docs' Forge base path)")
def _(w):
    made = w.post("/api/dispatch/v1/jobs", {"name": "nobody", "run_at": "2031-01-01T00:00:00Z"}, 201)
    equal(w.get(f"/api/dispatch/v1/jobs/{made['id']}")["name"], "nobody")
    equal(w.get("/api/dispatch/v1/stats").status, 200)


@ROWS.row("job object", "run_at round-trips as 2030-01-15T10:00:00Z (seed's form)")
def _(w):
    at = "2030-01-15T10:00:00Z"
    made = w.post("/v1/jobs", {"name": "later", "run_at": at}, 201)
    equal((made["run_at"], w.get(f"/v1/jobs/{made['id']}")["run_at"]), (at, at))


@ROWS.row("job object", "worker_id (wkr_…) filled [build]")
def _(w):
    name = w.name("worked")
    w.flow(prompt("slow 200\nsay one two three four five six seven eight nine ten"), name=name)
    job = w.post("/v1/jobs", {"name": name}, 201)["id"]
    found = w.until(f"/v1/jobs/{job}", lambda found: found["state"] == "running")
    assert found["worker_id"].startswith("wkr_"), found


@ROWS.row("cron", "schedule `@midnight`")
def _(w):
    made = w.post("/v1/crons", {"name": w.name("nightly"), "schedule": "@midnight", "job_name": "x", "timezone": "UTC"}, 201)
    equal(made["schedule"], "@midnight")
    assert "T00:00:00" in made["next_run_at"], made


def handshake(w, path):
    """The first line of the answer to a WebSocket's upgrade."""
    address = urlsplit(w.url)
    with socket.create_connection((address.hostname, address.port), 10) as wire:
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {address.netloc}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        )
        wire.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return wire.recv(4096).split(b"\r\n")[0].decode()


def upgrades(path):
    return lambda w: equal(handshake(w, path).split()[1], "101")


CLIENTS = "(the transport of the real Go, TypeScript and Python clients)"
ROWS.add("DWP", f"GET /dwp {CLIENTS}", upgrades("/dwp"))
ROWS.add("DWP", f"GET /dispatch/dwp {CLIENTS}", upgrades("/dispatch/dwp"))


@ROWS.row("DWP", f"GET /dwp/sse?token=x&channel=jobs {CLIENTS}")
def _(w):
    with w.http.stream("GET", f"/dwp/sse?token={KEY}&channel=jobs") as answer:
        equal((answer.status_code, answer.headers["content-type"].split(";")[0]), (200, "text/event-stream"))
        job = w.post("/v1/jobs", {"name": "heard", "run_at": "2031-01-01T00:00:00Z"}, 201)["id"]
        assert any(job in line for line in answer.iter_lines()), "the event did not come"


@ROWS.row("DWP", f"POST /dwp/rpc {CLIENTS}")
def _(w):
    frame = {"id": "1", "type": "request", "method": "job.enqueue", "data": {"name": "framed", "run_at": "2031-01-01T00:00:00Z"}}
    answer = w.post("/dwp/rpc", frame, 200)
    equal((answer["type"], answer["correl_id"]), ("response", "1"))
    equal(w.get(f"/v1/jobs/{answer['data']['job_id']}")["name"], "framed")


@ROWS.row("DWP", "WebSocket upgrade at /dwp")
def _(w):
    equal(handshake(w, "/dwp").split()[:2], ["HTTP/1.1", "101"])
    equal(handshake(w, "/api/dispatch/dwp").split()[1], "101")
    equal(w.call("GET", "/dwp").status in (400, 426), True)
