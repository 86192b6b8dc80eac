"""What does `config show` and `config schema` print? The settings without their secrets, and their schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from tenantproxy.config.secret import MASK, Secret
from tenantproxy.config.settings import Settings

__all__ = ["describe", "json_schema"]


def describe(settings: Settings) -> dict[str, Any]:
    """`settings` as nested tables of plain values, as in the TOML. Inline secrets are masked, unset keys left out."""
    return _table(settings)


def _table(model: BaseModel) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if value is None or (isinstance(value, Secret) and value.kind != "inline"):
            continue  # a file or a variable is told by its own key
        table[field.alias or name] = _plain(value)
    return table


def _plain(value: object) -> Any:
    if isinstance(value, Secret):
        return MASK
    if isinstance(value, BaseModel):
        return _table(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


def json_schema() -> dict[str, Any]:
    """The JSON schema of the TOML file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Settings.model_json_schema(by_alias=True)}
