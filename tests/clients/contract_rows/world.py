"""The server under test, the service that its flows call, and the calls of the checks."""

import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import httpx

from table import ROOT, equal, short

BINARY = os.environ.get("DISPATCH_BINARY", str(ROOT / "target/debug/dispatch"))
KEY = "key-of-the-contract-rows"
ECHO = "local/echo"
ORIGIN = "https://shop.example"
# A tool that comes to 8, with or without a parameter.
DOUBLE = {
    "name": "double",
    "description": "Doubles.",
    "toolType": "custom",
    "parametersSchema": {"type": "object", "properties": {"n": {"type": "number"}}},
    "config": {"code": "return 2 * (input.n ?? 4)"},
}


class Site(BaseHTTPRequestHandler):
    """A service: keeps what it was asked, and answers by the path. `/v1/chat/completions` is a model that says "ok"."""

    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = urlsplit(self.path).path
        self.server.asked.append({"method": self.command, "path": self.path, "headers": headers, "body": body})
        status, kind, text = ANSWERS.get(path, self.echo)(self, body)
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def echo(self, _, body):
        items = [{"sku": "a", "price": 50, "qty": 1}, {"sku": "b", "price": 150, "qty": 2}]
        return as_json({"path": self.path, "body": body, "items": items, "amount": 3})

    def log_message(self, *_):
        pass


def as_json(value, status=200):
    return status, "application/json", json.dumps(value)


def model_answer(site, body):
    asked = json.loads(body)
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
    said = {**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "ok"}, "finish_reason": None}]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    ended = {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
    frames = "".join(f"data: {json.dumps(frame)}\n\n" for frame in (said, ended))
    return 200, "text/event-stream", f"{frames}data: [DONE]\n\n"


def page(site, _):
    number = int(dict(part.split("=") for part in urlsplit(site.path).query.split("&") if "=" in part).get("page", 1))
    return as_json({"data": [[1, 2], [3]][number - 1] if number <= 2 else []})


ANSWERS = {
    "/v1/chat/completions": model_answer,
    "/pages": page,
    "/robots.txt": lambda *_: as_json({}, 404),
    "/site": lambda *_: (200, "text/html", "<html><body><h1>One</h1><a href='/site/two'>two</a></body></html>"),
    "/site/two": lambda *_: (200, "text/html", "<html><body><h1>Two</h1></body></html>"),
    "/fails": lambda *_: as_json({"error": "no"}, 500),
}


class Answer:
    """An answer of the server. Attributes are those of HTTP; `answer["name"]` reads the JSON."""

    def __init__(self, response):
        self.status, self.headers, self.text = response.status_code, response.headers, response.text
        try:
            self.json = response.json()
        except ValueError:
            self.json = None

    def __getitem__(self, name):
        assert isinstance(self.json, dict) and name in self.json, f"no `{name}` in {self}"
        return self.json[name]

    def pointers(self):
        return [problem["pointer"] for problem in self["details"]["problems"]]

    def __repr__(self):
        return f"{self.status} {self.text[:500]}"


class World:
    def __init__(self, url, site, folder):
        self.url, self.site, self.server, self.number = url, f"http://127.0.0.1:{site.server_port}", site, 0
        self.folder = pathlib.Path(folder)
        self.http = httpx.Client(base_url=url, timeout=40)
        self.kept = {}

    def call(self, method, path, body=None, status=None, headers=None, key=KEY, **rest):
        """Makes one call; `status` is the one that is wanted."""
        headers = {**({"authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        answer = Answer(self.http.request(method, path, json=body, headers=headers, **rest))
        if status is not None:
            wanted = status if isinstance(status, tuple) else (status,)
            assert answer.status in wanted, f"{method} {path}: wanted {status}, found {answer}"
        return answer

    def get(self, path, status=200, **rest):
        return self.call("GET", path, status=status, **rest)

    def post(self, path, body, status=(200, 201, 202), **rest):
        return self.call("POST", path, body, status, **rest)

    def put(self, path, body, status=(200, 201, 204), **rest):
        return self.call("PUT", path, body, status, **rest)

    def delete(self, path, status=(200, 204), **rest):
        return self.call("DELETE", path, status=status, **rest)

    def until(self, path, is_met):
        """Reads the path again until what it answers is as wanted."""
        end = time.monotonic() + 30
        while not is_met(found := self.get(path)):
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found

    def name(self, word):
        self.number += 1
        return f"{word} {self.number}"

    def once(self, make):
        """Returns, or raises, what the first call of `make` did."""
        if make not in self.kept:
            try:
                self.kept[make] = make(self), None
            except Exception as error:  # Every row that needs it fails for the same reason.
                self.kept[make] = None, error
        made, error = self.kept[make]
        if error:
            raise error
        return made

    def dispatch(self, body, status=200, **rest):
        options = {"streamResponse": False, **body.get("options", {})}
        return self.post("/v1/dispatch", {**body, "options": options}, status, **rest)

    def run(self, *steps, status=200, **request):
        """Runs the steps as a flow that is sent along and gives the whole answer."""
        return self.dispatch({"flow": {"name": "F", "steps": list(steps)}, **request}, status)

    def events(self, body, path="/v1/dispatch"):
        """The events of a streamed answer."""
        options = {"streamResponse": True, **body.get("options", {})}
        answer = self.post(path, {**body, "options": options}, 200)
        return frames(answer.text)

    def sse(self, path):
        """The events of a stream that ends."""
        return frames(self.get(path, headers={"accept": "text/event-stream"}).text)

    def refuses(self, pointer, *steps, **request):
        """The flow must be refused with exactly this pointer among its problems."""
        found = self.run(*steps, status=422, **request)
        assert pointer in found.pointers(), f"no {pointer} in {found}"

    def flow(self, *steps, name=None):
        steps = steps or (prompt("say kept"),)
        return self.post("/v1/flows", {"name": name or self.name("Flow"), "steps": list(steps)})["id"]

    def agent(self, **config):
        body = {"name": self.name("Agent"), "config": {"model": ECHO, "systemPrompt": "Be brief.", **config}}
        return self.post("/v1/agents", body)["id"]

    def asked(self, path):
        """The requests that the service was sent at `path`, and forgets them."""
        found = [one for one in self.server.asked if urlsplit(one["path"]).path == path]
        self.server.asked[:] = [one for one in self.server.asked if one not in found]
        return found

    def offered(self):
        """The names of the tools that the stand-in model was offered in its last call."""
        last = json.loads(self.asked("/v1/chat/completions")[-1]["body"])
        return sorted(tool["function"]["name"] for tool in last.get("tools", []))


def frames(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def step(kind, name="S", id=None, **config):
    return {"id": id or name.lower(), "name": name, "type": kind, "config": config}


def prompt(text, name="A", model=ECHO, **config):
    return step("prompt", name, model=model, userPrompt=text, **config)


def script(text, name="T", **config):
    return step("transform-data", name, script=text, **config)


def result(answer, name="S"):
    """What the step of that name came to, of an answer that succeeded."""
    assert answer["success"] is True, short(answer)
    assert name in answer["results"], f"no result of {name}: {short(answer)}"
    return answer["results"][name]


PROVIDERS = """
name = "{name}"
wire = "openai"
base_url = "{base}/v1"
prices_as_of = "2026-01-15"
key_env = ["STAND_IN_KEY"]

[[models]]
name = "now"
"""


@contextmanager
def running():
    """A server with a fresh store and a service beside it."""
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    site.daemon_threads, site.asked = True, []
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="dispatch-rows-") as folder:
        flags = ["--json", "serve", "--dev", "--listen", "127.0.0.1:0", "--data", folder, "--log", "error"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCH_", "OPENAI_"))}
        environment |= {"DISPATCH_API_KEY": KEY, "STAND_IN_KEY": "none"}
        providers = pathlib.Path(folder, "providers")
        providers.mkdir()
        for name, base in {"stand": f"http://127.0.0.1:{site.server_port}", "fails": "http://127.0.0.1:9"}.items():
            providers.joinpath(f"{name}.toml").write_text(PROVIDERS.format(name=name, base=base))
        server = subprocess.Popen([BINARY, *flags, "--providers", str(providers)], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            lines = (json.loads(line) for line in server.stdout if line.startswith("{"))
            url = next((line["url"] for line in lines if "url" in line), None)
            assert url, "the server ended before it listened"
            yield World(url, site, folder)
        finally:
            server.terminate()
            server.wait(20)
            site.shutdown()
