"""The page of the keys of the configuration: the schema as tables, and the example with its comments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tenantproxy.cli.shipped import EXAMPLE, shipped
from tenantproxy.config import json_schema
from tenantproxy.config.section import SECRETS

__all__ = ["keys", "page"]

_HEAD: Final = """# Keys of the configuration

Every key of `tenantproxy.toml` with its type and default, from the schema that `tenantproxy config schema` prints. How
values are found, what they mean together and what is refused: [configuration](../configuration.md). A secret is given
in one of three forms: `X`, `X_file` or `X_env`. A key without a default must be given where its table is.
"""


def page() -> str:
    """The whole page."""
    tables = "".join(_table(section, rows, about) for section, about, rows in keys())
    example = f"`tenantproxy config example` prints it.\n\n```toml\n{shipped(EXAMPLE)}```\n"
    return f"{_HEAD}{tables}\n## An example of all of it\n\n{example}"


def keys() -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    """Each table: its name in the TOML, what it says, and its keys with type and default."""
    schema = json_schema()
    yield from _below("", schema, schema["$defs"])


def _below(
    name: str, part: Mapping[str, Any], defs: Mapping[str, Any]
) -> Iterator[tuple[str, str, list[tuple[str, str, str]]]]:
    rows, deeper = [], []
    required = set(part.get("required", ()))
    for key, value in part.get("properties", {}).items():
        whole = f"{name}.{key}" if name else key
        table, is_named = _table_of(value, defs)
        if table is not None and "properties" in table:
            deeper.append((f"{whole}.NAME" if is_named else whole, table))
            continue
        if any(key in {f"{secret}_file", f"{secret}_env"} for secret in SECRETS):
            continue  # told with the secret itself
        default = "" if key in required or value.get("default") is None else json.dumps(value["default"])
        rows.append((key + ("" if key not in SECRETS else f", {key}_file, {key}_env"), _type(value, defs), default))
    if rows:
        yield name, part.get("description", ""), rows
    for whole, table in deeper:
        yield from _below(whole, table, defs)


def _table_of(value: Mapping[str, Any], defs: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool]:
    """The table that a key holds, and whether it is one of many under names of the operator's own."""
    for each in (value, *value.get("anyOf", ()), *value.get("allOf", ())):
        if "$ref" in each:
            return defs[each["$ref"].rpartition("/")[2]], False
        inner = each.get("additionalProperties")
        if isinstance(inner, Mapping) and "$ref" in inner:
            return defs[inner["$ref"].rpartition("/")[2]], True
    return None, False


def _type(value: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    if "$ref" in value:
        return _type(defs[value["$ref"].rpartition("/")[2]], defs)
    if "enum" in value or "const" in value:
        return ", ".join(f"`{json.dumps(each)}`" for each in value.get("enum", [value.get("const")]))
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(each, defs) for each in value["anyOf"] if each.get("type") != "null"))
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}), defs)}"
    if value.get("type") == "object":
        return "table"
    kind = {"string": "text", "boolean": "true, false"}.get(value.get("type", ""), value.get("type", "text"))
    limits = [f"{word} {value[key]}" for key, word in _LIMITS.items() if key in value]
    return " ".join([kind, *limits])


_LIMITS: Final = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _table(name: str, rows: list[tuple[str, str, str]], about: str) -> str:
    lines = "".join(f"| `{key}` | {kind} | {f'`{default}`' if default else ''} |\n" for key, kind, default in rows)
    first = " ".join(about.partition("\n\n")[0].split())
    head = f"[{name}]" if name else "Above all tables"
    return f"\n## {head}\n\n{first}\n\n| key | type | default |\n|---|---|---|\n{lines}"
