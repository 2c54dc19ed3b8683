"""Rows of the steps of Runtype's flows."""

import json

from table import Table, equal
from world import result, script, step

ROWS = Table("Runtype")


LANGUAGES = "Languages other than JavaScript in scripts."
for language in ("typescript", "python"):
    check = lambda w, language=language: w.refuses("/flow/steps/0/config/language", script("return 1", language=language))
    ROWS.add("steps", f"transform-data: language {language}", check, LANGUAGES)


@ROWS.row("steps", "conditional: newer named branches (shape unknown)", "Named branches of a `conditional`")
def _(w):
    branches = [{"name": "big", "condition": "true", "steps": [script("return 1")]}]
    w.refuses("/flow/steps/0/config/condition", step("conditional", branches=branches))


def comes_to(item, make, wanted):
    """`results` and `step_complete.result` have the output of the step itself."""

    def check(w):
        made = make(w)
        answer = w.run(made)
        found = result(answer)
        assert wanted(found), answer
        ended = next(event for event in answer["events"] if event["type"] == "step_complete" and event["name"] == "S")
        equal(ended["result"], found)

    ROWS.add("steps", item, check)


comes_to("loop: over", lambda w: step("loop", over=[1, 2], steps=[script("return item")]), lambda found: found == [1, 2])


@ROWS.row("steps", "fetch-url: fetchMethod firecrawl", "Of steps: `fetchMethod` other than `http`, `firecrawl`")
def _(w):
    w.refuses("/flow/steps/0/config/fetchMethod", step("fetch-url", url=f"{w.site}/x", fetchMethod="firecrawl"))


@ROWS.row("steps", "api-call: auth beside http (config.auth)")
def _(w):
    auth = {"type": "bearer", "token": "T"}
    for kind in ("api-call", "fetch-url"):
        result(w.run(step(kind, http={"url": f"{w.site}/beside"}, auth=auth, headers={"x-a": "1"}, query={"q": "2"})))
        (asked,) = w.asked("/beside")
        equal((asked["headers"]["authorization"], asked["headers"]["x-a"], asked["path"]), ("Bearer T", "1", "/beside?q=2"))


comes_to(
    "paginate-api: url, paginationType page, entityPath",
    lambda w: step("paginate-api", url=f"{w.site}/pages", paginationType="page", entityPath="data"),
    lambda found: found == [1, 2, 3],
)
comes_to(
    "crawl: url, limit, depth",
    lambda w: step("crawl", url=f"{w.site}/site", limit=2, depth=1),
    lambda found: [page["url"].rsplit("/", 1)[1] for page in found] == ["site", "two"],
)
comes_to(
    "execute-agent: agentId, message, timeout",
    lambda w: step("execute-agent", agentId=w.agent(), message="say served", timeout=20000),
    lambda found: found == "served",
)


@ROWS.row(
    "steps",
    "upsert-record: a {name,type,metadata} wrapper as source (contract: not allowed)",
    "An object `{name, type, metadata}` in the source of an `upsert-record`",
)
def _(w):
    wrapper = {"name": "n", "type": "t", "metadata": {"a": 1}}
    name = w.name("Wrapped")
    steps = (script(f"return {json.dumps(wrapper)}", outputVariable="v"), step("upsert-record", recordType="t", recordName=name, sourceVariable="v"))
    record = result(w.run(*steps))["id"]
    equal(w.get(f"/v1/records/{record}")["metadata"], wrapper)


comes_to(
    "generate-embedding: text",
    lambda w: step("generate-embedding", text="red wine", embeddingModel="local/words"),
    lambda found: len(found) == 256 and all(isinstance(number, float) for number in found),
)


@ROWS.row("steps", "vector-search with just the contract's members (query, limit, threshold; no collection)")
def _(w):
    w.run(
        step("generate-embedding", "E", text="red wine", embeddingModel="local/words", outputVariable="e"),
        step("store-vector", "K", vectorsSource="e", destination="default"),
    )
    (near,) = result(w.run(step("vector-search", query="red wine", limit=3, threshold=0.1)))
    assert near["score"] > 0.9, near


TEMPLATES = "`asArtifact` and `partials` of a `template`"
ROWS.add(
    "steps",
    "template: partials",
    lambda w: w.refuses("/flow/steps/0/config/partials", step("template", template="x", partials={"a": "b"})),
    TEMPLATES,
)
ROWS.add(
    "steps",
    "template asArtifact emits artifact_* events",
    lambda w: w.refuses("/flow/steps/0/config/asArtifact", step("template", template="x", asArtifact=True)),
    TEMPLATES,
)


@ROWS.row("steps", "generate-pdf/store-asset result is a URL (contract: → URL)", "An object with the file's `url`")
def _(w):
    for made in (step("generate-pdf", html="<p>x</p>"), step("store-asset", content="aGk=", filename="a.txt", contentType="text/plain")):
        file = result(w.run(made))
        equal({"assetId", "url", "filename", "contentType", "size"} - set(file), set())
        equal(w.http.get(file["url"]).status_code, 200)
