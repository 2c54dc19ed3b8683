"""The trace of one execution over two servers, as a real OpenTelemetry collector receives it.

The collector is Rotel (https://github.com/streamfold/rotel), which its package for Python ships as a program; scripts/test-tools installs it.
Two servers share a PostgreSQL database. The first takes a request and pauses at an approval, and is stopped; the second takes the approval and ends
the execution. What the collector writes down must be one trace, whole, with each span where it belongs and from the server that did the work.

    DISPATCH_TEST_POSTGRES_URL=postgres://... target/contract/bin/python tests/collector/traces.py
"""

import importlib.util
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("DISPATCH_BINARY", str(ROOT / "target/debug/dispatch"))
POSTGRES = os.environ.get("DISPATCH_TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
# Seconds that anything may take.
LIMIT = 15
TRACE, CALLER = secrets.token_hex(16), secrets.token_hex(8)
KEY = "key-for-the-test-of-traces"
# Of the example's prompt, its call and the tool's answer.
PRIVATE = ["parcel", "carrier", "R-1042", "39.9"]


class Failure(Exception):
    """What is told without a stack."""


def collector_program():
    package = importlib.util.find_spec("rotel")
    if package is None:
        raise Failure("the collector is missing: run scripts/test-tools")
    return Path(package.origin).parent / "rotel-agent"


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(what, look):
    """Looks again and again until there is something."""
    end = time.monotonic() + LIMIT
    while not (found := look()):
        if time.monotonic() > end:
            raise Failure(f"{what}: not within {LIMIT} s")
        time.sleep(0.05)
    return found


class Collector:
    """Rotel, which writes every span that it receives to a file."""

    def __init__(self, folder, running):
        http, grpc = free_ports(2)
        self.url, self.file = f"http://127.0.0.1:{http}", folder / "collector.out"
        options = {
            "--exporter": "blackhole",
            "--debug-log": "traces",
            "--debug-log-verbosity": "detailed",
            "--otlp-http-endpoint": f"127.0.0.1:{http}",
            "--otlp-grpc-endpoint": f"127.0.0.1:{grpc}",
            "--pid-file": folder / "collector.pid",
            "--log-file": folder / "collector.log",
        }
        arguments = [str(part) for pair in options.items() for part in pair]
        with self.file.open("w") as out:
            self.process = subprocess.Popen([collector_program(), "start", *arguments], stdout=out, stderr=subprocess.STDOUT)
        running.append(self.process)
        until("the collector listens", lambda: self.process.poll() is not None or listens(http))
        if self.process.poll() is not None:
            raise Failure(f"the collector ended at once: {self.text()}")

    def stop(self):
        """Lets it write down what it has, and ends it."""
        written = -1
        while written != (written := self.file.stat().st_size):
            time.sleep(0.3)
        self.process.terminate()
        self.process.wait(LIMIT)

    def text(self):
        return self.file.read_text(errors="replace")

    def spans(self):
        """Every span with the attributes of its resource under `resource`."""
        spans, resource, target = [], {}, {}
        for line in self.text().splitlines():
            if line.startswith("Resource attributes:"):
                resource = target = {}
            elif line.startswith("ScopeSpans"):
                target = {}
            elif re.match(r"Span #\d+", line):
                target = {}
                spans.append({"resource": resource, "attributes": target})
            elif found := re.match(r"    (Trace ID|Parent ID|ID|Name|Kind|Status code) *: (.*)", line):
                spans[-1][found[1]] = found[2].strip()
            elif found := re.match(r" +-> ([\w.]+): (\w+)\((.*)\)", line):
                target[found[1]] = (found[2], found[3])
        return spans


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A server over the shared database, in a process of its own."""

    def __init__(self, folder, name, database, collector, running):
        flags = ["--json", "serve", "--dev", "--listen", "127.0.0.1:0", "--log", "error", "--data", str(folder / name)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCH_", "OTEL_"))}
        environment |= {"DISPATCH_MASTER_KEY": "07" * 32, "DISPATCH_API_KEY": KEY, "DISPATCH_DATABASE_URL": database}
        self.process = subprocess.Popen([BINARY, *flags, "--otlp-endpoint", collector.url], env=environment, stdout=subprocess.PIPE, text=True)
        running.append(self.process)
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            raise Failure(f"server {name} did not start")
        self.url = json.loads(line)["url"]

    def post(self, path, body, headers):
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}", **headers}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as refused:
            raise Failure(f"POST {path}: {refused.code} {refused.read().decode(errors='replace')}") from None

    def stop(self):
        """Asks it to stop, which sends what was not sent yet."""
        self.process.send_signal(signal.SIGTERM)
        if (code := self.process.wait(LIMIT)) != 0:
            raise Failure(f"a server ended with {code}")


def execute(folder, database, collector, running):
    """One execution, begun on one server and ended on another."""
    request = json.loads((ROOT / "examples/02-approval.json").read_text()) | {"streamResponse": False}
    first = Server(folder, "first", database, collector, running)
    paused = first.post("/v1/dispatch", request, {"traceparent": f"00-{TRACE}-{CALLER}-01"})
    if paused["status"] != "paused":
        raise Failure(f"expected a pause: {paused}")
    first.stop()
    second = Server(folder, "second", database, collector, running)
    answer = {"executionId": paused["executionId"], "approvalId": paused["pausedReason"]["approvalId"], "decision": "approved"}
    done = second.post("/v1/dispatch/approve", answer | {"streamResponse": False}, {})
    if done["status"] != "completed":
        raise Failure(f"expected the end: {done}")
    second.stop()


class Trace:
    """The spans of the one trace, and what is wrong with them."""

    def __init__(self, spans):
        self.spans = [span for span in spans if span["Trace ID"] == TRACE]
        self.faults = []
        instances = dict.fromkeys(self.instance(span) for span in self.spans)
        self.servers = dict(zip(instances, ["first", "second", *map(str, range(3, 99))]))

    @staticmethod
    def instance(span):
        return span["resource"].get("service.instance.id")

    def server(self, span):
        return self.servers[self.instance(span)]

    def expect(self, holds, fault):
        if not holds:
            self.faults.append(fault)

    def one(self, server, name):
        found = [span for span in self.spans if span["Name"] == name and self.server(span) == server]
        self.expect(len(found) == 1, f"expected one span `{name}` of the {server} server, found {len(found)}")
        return found[0] if found else None

    def below(self, span, parent, kind="INTERNAL"):
        if span and parent:
            found, expected = (span.get("Parent ID"), span["Kind"]), (parent["ID"], f"SPAN_KIND_{kind}")
            self.expect(found == expected, f"`{span['Name']}` has parent and kind {found}, expected {expected}")

    def attributes(self, span, expected):
        """Compares attributes by their type and, if given, their text."""
        for name, (kind, value) in expected.items() if span else []:
            found = span["attributes"].get(name, ("nothing", ""))
            fits = found[0] == kind and value in (None, found[1])
            self.expect(fits, f"`{span['Name']}`: {name} is {found[0]}({found[1]}), expected {kind}({'...' if value is None else value})")

    def judge(self):
        self.expect(self.spans, "no span of the caller's trace arrived")
        self.expect(len(self.servers) == 2 and None not in self.servers, f"expected two service.instance.id, found {list(self.servers)}")
        for span in self.spans:
            resource = span["resource"]
            self.expect(resource.get("service.name") == ("Str", "dispatch"), f"service.name is {resource.get('service.name')}")
            self.expect("service.version" in resource, "there is no service.version")
        known = {span["ID"] for span in self.spans} | {CALLER}
        self.expect(len(known) == len(self.spans) + 1, "two spans have one id")
        for span in self.spans:
            parent = span.get("Parent ID")
            self.expect(parent in known, f"`{span['Name']}` stands below {parent}, which is no span of the trace")
        request = self.one("first", "POST /v1/dispatch")
        self.below(request, {"ID": CALLER}, "SERVER")
        words = {"http.request.method": ("Str", "POST"), "http.route": ("Str", "/v1/dispatch")}
        self.attributes(request, words | {"http.response.status_code": ("Int", "200")})
        for server, state in [("first", "paused"), ("second", "completed")]:
            self.run(server, state, request)
        tool = [span for span in self.spans if span["Name"] == "execute_tool refund"]
        self.expect([self.server(span) for span in tool] == ["second"], f"the second server called the tool once; the trace has {len(tool)} calls")
        names = {"POST /v1/dispatch", "run", "commit", "step decide", "chat echo", "execute_tool refund"}
        others = {span["Name"] for span in self.spans} - names
        self.expect(not others, f"nobody expects {sorted(others)}")

    def run(self, server, state, request):
        """The part of the execution that one server did."""
        run, step, chat = [self.one(server, name) for name in ["run", "step decide", "chat echo"]]
        self.below(run, request)
        self.attributes(run, {"run": ("Str", None), "flow": ("Str", "Refund with approval"), "dispatch.run.state": ("Str", state)})
        self.below(step, run)
        self.attributes(step, {"dispatch.step.type": ("Str", "prompt"), "dispatch.step.attempt": ("Int", "1")})
        paused = step is not None and "dispatch.paused" in step["attributes"]
        self.expect(paused == (state == "paused"), f"the step of the {server} server says that it {'paused' if paused else 'did not pause'}")
        self.below(chat, step, "CLIENT")
        words = {"operation.name": "chat", "provider.name": "local", "request.model": "echo", "response.model": "echo"}
        self.attributes(chat, {f"gen_ai.{name}": ("Str", value) for name, value in words.items()})
        self.attributes(chat, {f"gen_ai.usage.{way}_tokens": ("Int", None) for way in ["input", "output"]})
        commits = [span for span in self.spans if span["Name"] == "commit" and self.server(span) == server]
        self.expect(commits, f"the {server} server told of no commit")
        for commit in commits:
            self.below(commit, run)
            self.attributes(commit, {"dispatch.commit.number": ("Int", None)})
        self.expect(any(commit["attributes"].get("dispatch.commit.state") == ("Str", state) for commit in commits), f"no commit says `{state}`")
        if server == "second":
            tool = self.one(server, "execute_tool refund")
            self.below(tool, step)
            words = {"operation.name": "execute_tool", "tool.name": "refund", "tool.type": "function"}
            self.attributes(tool, {f"gen_ai.{name}": ("Str", value) for name, value in words.items()} | {"gen_ai.tool.call.id": ("Str", None)})

    def draw(self, below=CALLER, depth=0):
        for span in [span for span in self.spans if span.get("Parent ID") == below]:
            print(f"  {'  ' * depth}{span['Name']}  ({self.server(span)} server)")
            self.draw(span["ID"], depth + 1)


def psql(statement):
    done = subprocess.run(["psql", "--no-psqlrc", "--quiet", "--command", statement, POSTGRES], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"PostgreSQL refuses `{statement}`: {done.stderr.strip()}")


def test(folder):
    database = f"dispatch_traces_{secrets.token_hex(6)}"
    psql(f"create database {database}")
    running = []
    try:
        collector = Collector(folder, running)
        execute(folder, urlunsplit(urlsplit(POSTGRES)._replace(path=f"/{database}")), collector, running)
        # Both servers have sent everything; the last word is the second one's run.
        until("the collector has the spans of both servers", lambda: sum(span.get("Name") == "run" for span in collector.spans()) >= 2)
        collector.stop()
        trace, text = Trace(collector.spans()), collector.text()
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        psql(f"drop database {database} with (force)")
    trace.judge()
    trace.expect(not [word for word in PRIVATE if word in text], "what was said to the model or the tool is in the trace")
    print(f"trace {TRACE}, as the collector has it:")
    trace.draw()
    if trace.faults:
        raise Failure("\n  ".join(["the trace is not as it should be:", *dict.fromkeys(trace.faults)]))
    print(f"{len(trace.spans)} spans of two servers are one whole trace: request, run, step, model call, tool call, commits")


def main():
    try:
        with tempfile.TemporaryDirectory(prefix="dispatch-traces-") as folder:
            test(Path(folder))
    except (Failure, OSError, subprocess.TimeoutExpired) as failure:
        print(f"traces: {failure}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
