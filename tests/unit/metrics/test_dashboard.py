"""Is the shipped dashboard one that Grafana understands? By the models that Grafana generates from its own schemas.

A Grafana is not to be had from the registries that tests may use: this is its schema, and not a Grafana that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel, RowPanel
from grafana_foundation_sdk.models.prometheus import Dataquery
from pydantic import ConfigDict, TypeAdapter, ValidationError

DASHBOARD = Path(__file__).parents[3] / "config" / "grafana" / "tenantproxy.json"


@pytest.fixture(scope="module", autouse=True)
def _plugins() -> None:
    register_default_plugins()


def differences(given: Any, read: Any, path: str = "") -> Iterator[str]:
    """What of `given` is not in `read`. What a model adds is a default of Grafana's."""
    if isinstance(given, dict) and isinstance(read, dict):
        for name, value in given.items():
            if name in read:
                yield from differences(value, read[name], f"{path}.{name}")
            else:
                yield f"{path}.{name} is not known"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for number, (one, other) in enumerate(zip(given, read, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif given != read:
        yield f"{path} is {given!r} and is read as {read!r}"


def wrong_types(model: Any, path: str = "") -> Iterator[str]:
    """Which values of a model are not what its fields are declared as."""
    if isinstance(model, list):
        for number, each in enumerate(model):
            yield from wrong_types(each, f"{path}[{number}]")
    elif type(model).__module__.startswith("grafana_foundation_sdk.models"):
        for name, hint in get_type_hints(type(model)).items():
            value = getattr(model, name)
            if (why := mistake(hint, value)) is not None:
                yield f"{path}.{name} is {value!r}: {why}"
            yield from wrong_types(value, f"{path}.{name}")


@cache
def adapter_of(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def mistake(hint: Any, value: Any) -> str | None:
    """Why it is not of this type; what stands for a member of an enumeration is."""
    adapter = adapter_of(hint)
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as exc:
        with suppress(ValidationError):
            if isinstance(adapter.validate_python(value), Enum):
                return None
        return exc.errors()[0]["msg"]
    return None


def problems(text: str) -> list[str]:
    given = json.loads(text)
    model = Dashboard.from_json(given)
    read = json.loads(JSONEncoder(sort_keys=True).encode(model))
    return [*differences(given, read), *wrong_types(model)]


def test_nothing_of_the_dashboard_is_lost_on_grafanas_own_models() -> None:
    assert problems(DASHBOARD.read_text()) == []


def test_every_query_is_one_of_prometheus_in_a_panel_with_a_title() -> None:
    panels = Dashboard.from_json(json.loads(DASHBOARD.read_text())).panels or []
    assert {type(panel) for panel in panels} == {Panel, RowPanel}
    for panel in panels:
        assert panel.title
        assert {type(target) for target in getattr(panel, "targets", None) or []} <= {Dataquery}


@pytest.mark.parametrize(
    ("given", "instead"),
    [('"schemaVersion"', '"schemaVersoin"'), ('"refId"', '"refID"'), ('"refresh": "', '"refresh": 5, "tite": "')],
)
def test_a_mistake_in_a_dashboard_is_found(given: str, instead: str) -> None:
    text = DASHBOARD.read_text()
    assert given in text
    assert problems(text.replace(given, instead, 1))


def test_a_value_of_a_wrong_type_is_found() -> None:
    given = json.loads(DASHBOARD.read_text())
    given["panels"][1]["id"] = "1"
    assert problems(json.dumps(given))
