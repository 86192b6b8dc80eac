"""Does an API answer as its OpenAPI description says? Requests drawn from it, and a look at each answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.support.waiting import PATIENCE

__all__ = ["Asked", "Told", "ask", "complaints", "operations", "requests"]

JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=70).filter(
    lambda text: text not in (".", "..")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request: `path` is as it goes over the wire."""

    method: str
    path: str
    body: bytes | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came back."""

    status: int
    content_type: str
    body: bytes


def operations(description: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Method, path and what is said of each."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


@st.composite
def requests(draw: st.DrawFn, /, each: tuple[str, str, Mapping[str, Any]], fixed: Mapping[str, Any]) -> Asked:
    """Such as the description allows, and such as it does not. `fixed`: members that a body has in any case."""
    method, path, operation = each
    query: dict[str, str] = {}
    for one in operation["parameters"]:
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", urllib.parse.quote(draw(PATHS), safe=""))
        elif draw(st.booleans()):
            query[one["name"]] = str(draw(_values(one["schema"])))
    if query:
        path = f"{path}?{urllib.parse.urlencode(query, errors='replace')}"
    if "requestBody" not in operation:
        return Asked(method=method, path=path)
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    body = {name: draw(_values(kind)) for name, kind in schema["properties"].items() if draw(st.booleans())}
    sent: Any = {**body, **fixed}
    if not fixed and draw(st.integers(0, 4)) == 0:
        sent = draw(JUNK)
    raw = json.dumps(sent).encode()
    content_type = draw(st.sampled_from(("application/json", "application/json", "application/json", "text/plain")))
    return Asked(method=method, path=path, body=raw, content_type=content_type)


def _values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly of the schema."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "string": st.sampled_from(schema["enum"]) if "enum" in schema else st.text(max_size=70),
        "integer": st.integers(schema.get("minimum"), schema.get("maximum")),
        "number": st.floats(min_value=schema.get("minimum"), allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "array": st.lists(st.text(max_size=20), max_size=3),
    }
    return st.one_of(kinds[schema["type"]], kinds[schema["type"]], kinds[schema["type"]], JUNK)


def ask(url: str, asked: Asked, token: str | None) -> Told:
    """One request over a real socket."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    if asked.body is not None:
        headers["Content-Type"] = asked.content_type
    request = urllib.request.Request(f"{url}{asked.path}", asked.body, headers, method=asked.method)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return Told(status=answer.status, content_type=answer.headers.get_content_type(), body=answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            return Told(status=exc.status or 0, content_type=exc.headers.get_content_type(), body=exc.read())


def complaints(operation: Mapping[str, Any], told: Told) -> Iterator[str]:
    """What of the answer is not as it is described."""
    response = operation["responses"].get(str(told.status))
    if response is None:
        yield f"the status {told.status} is not described"
        return
    if told.content_type not in response["content"]:
        yield f"{told.content_type} is not described for {told.status}"
    if told.status >= 500 and told.status != 501:
        yield f"it failed with {told.status}"
    if "json" not in told.content_type:
        return
    found = json.loads(told.body)
    if not isinstance(found, dict):
        yield "the answer is no object"
    elif told.content_type == "application/problem+json" and found.get("status") != told.status:
        yield "the problem has another status"
    elif told.content_type == "application/problem+json" and not {"type", "title", "code"} <= found.keys():
        yield "the problem lacks a member"
