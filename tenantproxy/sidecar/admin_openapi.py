"""How is the admin API described to programs? As OpenAPI 3.1, made of the table of routes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

from tenantproxy.config.version import VERSION
from tenantproxy.sidecar.admin_routes import AdminRoute, Given

__all__ = ["description"]

_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_ANY: Final = (400, 401, 403, 408, 413, 421, 431, 500, 501, 503)
"""What any route may answer: to no HTTP, no token, a weak role, a foreign host, and while a server is down."""
_PROBLEM: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
    },
}


def description(routes: Iterable[AdminRoute]) -> dict[str, Any]:
    """The description of `routes`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tenantproxy admin API", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: AdminRoute) -> dict[str, Any]:
    words = re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_")
    parameters = [_parameter(name) for name in _PARAMETER.findall(route.path)]
    parameters += [
        {"name": each.name, "in": "query", "required": each.needed, "schema": dict(each.schema)} for each in route.query
    ]
    found: dict[str, Any] = {
        "operationId": words,
        "summary": route.says,
        "parameters": parameters,
        "responses": {str(code): _response(code, route) for code in sorted({*route.codes, *_ANY})},
        "x-role": None if route.role is None else route.role.value,
        "security": [] if route.role is None else [{"token": []}],
    }
    if route.body is not None:
        found["requestBody"] = _body(route.body)
    return found


def _parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _body(members: Iterable[Given]) -> dict[str, Any]:
    members = tuple(members)
    needed = [each.name for each in members if each.needed]
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {each.name: dict(each.schema) for each in members},
    }
    if needed:
        schema["required"] = needed
    return {"required": bool(needed), "content": {"application/json": {"schema": schema}}}


def _response(code: int, route: AdminRoute) -> dict[str, Any]:
    is_json = route.content == "application/json"
    content: dict[str, Any] = {}
    if code >= 400:
        content["application/problem+json"] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    if code < 400 or (code in route.codes and not is_json):
        content[route.content] = {"schema": {"type": "object"} if is_json else {}}
    if code == HTTPStatus.CONFLICT:
        content["application/json"] = {"schema": {"type": "object"}}  # places of which some were not migrated
    return {"description": HTTPStatus(code).phrase, "content": content}
