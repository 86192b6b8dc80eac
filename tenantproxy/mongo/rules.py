"""What may an operation on documents say, and what is added to it? Pure: takes what a caller wrote, gives what is sent.

Nothing a caller passes is sent as it stands: it goes through BSON and back first. So what is looked at is what the
server gets, whatever class it was of, and whatever changes it meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from tenantproxy.errors import DocumentRefused
from tenantproxy.mongo.operators import EXPRESSIONS, FILTERS, LOGICAL, OWN_STAGES, STAGES, UPDATES

__all__ = ["OwnRules", "Rules", "SharedRules", "collection_refused", "plain"]

Document = dict[str, Any]

_DEEPEST: Final = 100  # as MongoDB's own limit
_COLLECTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*")


def plain(value: object, what: str) -> Document:
    """A copy of plain dicts, lists and BSON's scalars. Raises DocumentRefused for what is no document."""
    from bson import CodecOptions, decode, encode
    from bson.binary import UuidRepresentation
    from bson.codec_options import DatetimeConversion
    from bson.errors import BSONError

    if not isinstance(value, Mapping):
        raise _refused(f"{what} is a {type(value).__name__}, not a document", "pass a dict")
    options: CodecOptions[Document] = CodecOptions(
        document_class=dict, uuid_representation=UuidRepresentation.STANDARD,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )  # fmt: skip
    try:
        return decode(encode(dict(value), codec_options=options), codec_options=options)
    except (BSONError, OverflowError, RecursionError, TypeError, ValueError) as exc:
        raise _refused(f"{what} cannot be written as BSON ({type(exc).__name__})", "use BSON's types") from None


def plain_list(value: object, what: str) -> list[Any]:
    """The same of a list of documents."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise _refused(f"{what} is a {type(value).__name__}, not a list", "pass a list of dicts")
    found: list[Any] = plain({"list": [_mapping(one, what) for one in value]}, what)["list"]
    return found


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _refused(f"{what} has a {type(value).__name__} in it, not a document", "pass a list of dicts")
    return value


def collection_refused(name: object) -> bool:
    """Whether `name` cannot be a collection of a tenant's own."""
    return not isinstance(name, str) or not _COLLECTION.fullmatch(name) or name.startswith("system.")


class Rules:
    """Of a tenant's own database: everything in it is the tenant's, so nothing is added; no way leads out of it."""

    def filter(self, given: object) -> Document:
        """What an operation may find."""
        found = plain({} if given is None else given, "a filter")
        _check_filter(found)
        return found

    def insert(self, given: object) -> Document:
        """A document that is written whole, also in the place of another."""
        found = plain(given, "a document")
        if strange := [key for key in found if key.startswith("$")]:
            raise _refused(f"a document has the field {strange[0]!r}", "update with update_one, or rename the field")
        return found

    def update(self, given: object) -> Document:
        """Operators of an update."""
        if not isinstance(given, Mapping):
            raise _refused("an update is no document of operators (a pipeline is not taken)", 'pass {"$set": {...}}')
        found = plain(given, "an update")
        if not found:
            raise _refused("an update is empty", 'pass {"$set": {...}}')
        for operator, changes in found.items():
            if operator not in UPDATES:
                raise _refused(f"an update has {operator!r}", f"use {', '.join(sorted(UPDATES))}")
            if not isinstance(changes, dict):
                raise _refused(f"{operator} has no document of fields", "name the fields")
            for path, value in changes.items():
                self._check_path(path)
                if operator == "$rename":
                    self._check_path(value)
                if operator == "$pull":
                    _check_filter({path: value})
        return found

    def _check_path(self, path: object) -> None:
        if not isinstance(path, str) or path.startswith("$") or "\0" in path:
            raise _refused("an update names a field that cannot be one", "name a field of the documents")

    def array_filters(self, given: object) -> list[Any]:
        """Which elements an update is about."""
        found = plain_list(given, "array_filters")
        for one in found:
            _check_filter(one)
        return found

    def projection(self, given: object) -> Document | None:
        """Which fields are wanted."""
        if given is None:
            return None
        if isinstance(given, Sequence) and not isinstance(given, str):
            given = dict.fromkeys(given, 1)
        found = plain(given, "a projection")
        _check_expressions(found, 0, also=frozenset({"$elemMatch", "$slice", "$meta"}))
        return found

    def sort(self, given: object) -> list[tuple[str, int]] | None:
        """In which order: `[("name", 1), ...]` or the name of one field."""
        if given is None:
            return None
        pairs: object = given
        if isinstance(given, str | Mapping):
            pairs = [(given, 1)] if isinstance(given, str) else list(given.items())
        if not isinstance(pairs, list | tuple):
            raise _refused("a sort is no list of fields", 'pass [("created_at", -1)]')
        found: list[tuple[str, int]] = []
        for pair in pairs:
            if not isinstance(pair, tuple | list) or len(pair) != 2 or pair[1] not in (1, -1):
                raise _refused("a sort has what is no field with 1 or -1", 'pass [("created_at", -1)]')
            found.append((self.field(pair[0]), int(pair[1])))
        return found

    def field(self, given: object) -> str:
        """The path of a field."""
        if not isinstance(given, str) or not given or given.startswith("$") or "\0" in given:
            raise _refused("what is asked for is no field", "name a field of the documents")
        return given

    def pipeline(self, given: object) -> list[Any]:
        """The stages of an aggregation."""
        found = plain_list(given, "a pipeline")
        self._check_pipeline(found, 0)
        return found

    def _check_pipeline(self, stages: object, depth: int) -> None:
        if not isinstance(stages, list) or depth > _DEEPEST:
            raise _refused("a pipeline is no list of stages", "pass a list of dicts")
        for stage in stages:
            if not isinstance(stage, dict) or len(stage) != 1:
                raise _refused("a stage is no document with one operator", "write each stage as a dict of its own")
            [(operator, body)] = stage.items()
            self._check_stage(operator, body, depth)

    def _check_stage(self, operator: str, body: Any, depth: int) -> None:
        if operator not in STAGES:
            raise _refused(f"a pipeline has {operator!r}", "use only " + ", ".join(sorted(STAGES)))
        if operator == "$match":
            _check_filter(body)
        elif operator == "$facet":
            for stages in body.values() if isinstance(body, dict) else (None,):
                self._check_pipeline(stages, depth + 1)
        else:
            _check_expressions(body, 0)


class OwnRules(Rules):
    """Further stages may name collections of the same database."""

    def _check_stage(self, operator: str, body: Any, depth: int) -> None:
        if operator not in OWN_STAGES:
            super()._check_stage(operator, body, depth)
            return
        for key, value in body.items() if isinstance(body, dict) else [("coll", body)]:
            if key in ("from", "coll", "into"):
                if collection_refused(value):
                    raise _refused(f"{operator} names no collection of this database", "name one by text alone")
            elif key == "pipeline" and operator != "$merge":
                self._check_pipeline(value, depth + 1)
            elif key == "restrictSearchWithMatch":
                _check_filter(value)
            elif key not in _OTHER_KEYS or (key == "whenMatched" and not isinstance(value, str)):
                raise _refused(f"{operator} has {key!r}", "leave it out")
            else:
                _check_expressions(value, 0)


class SharedRules(Rules):
    """Of a collection of all tenants: `field` of each document says whose it is, and is this tenant's alone."""

    def __init__(self, field: str, tenant: str) -> None:
        self._field = field
        self._tenant = tenant

    def filter(self, given: object) -> Document:
        """What was asked for, of this tenant."""
        found = super().filter(given)
        self._check_own(found)
        return {**found, self._field: self._tenant}

    def _check_own(self, found: object) -> None:
        """Another tenant in a filter finds nothing; it is refused so that the mistake is seen."""
        for key, value in found.items() if isinstance(found, dict) else ():
            if key in LOGICAL:
                for part in value if isinstance(value, list) else ():
                    self._check_own(part)
            elif self._is_field(key) and value != self._tenant:
                raise self._refused_field("a filter")

    def insert(self, given: object) -> Document:
        """The document, as this tenant's."""
        found = super().insert(given)
        if found.get(self._field, self._tenant) != self._tenant or any(self._is_path(key) for key in found):
            raise self._refused_field("a document")
        return {**found, self._field: self._tenant}

    def pipeline(self, given: object) -> list[Any]:
        """The stages, of this tenant's documents."""
        return [{"$match": {self._field: self._tenant}}, *super().pipeline(given)]

    def _check_path(self, path: object) -> None:
        super()._check_path(path)
        if isinstance(path, str) and self._is_field(path):
            raise self._refused_field("an update")

    def _is_field(self, path: str) -> bool:
        return path == self._field or self._is_path(path)

    def _is_path(self, path: str) -> bool:
        return path.startswith(f"{self._field}.")

    def _refused_field(self, what: str) -> DocumentRefused:
        return _refused(
            f"{what} names {self._field!r}, which says whose a document is", "leave it out: the guard adds it"
        )


_OTHER_KEYS: Final = frozenset({
    "localField", "foreignField", "as", "let", "startWith", "connectFromField", "connectToField", "maxDepth",
    "depthField", "on", "whenMatched", "whenNotMatched",
})  # fmt: skip


def _check_filter(found: object, depth: int = 0) -> None:
    """Each operator at any depth is one that is known."""
    if depth > _DEEPEST:
        raise _refused("a filter is too deep", "write it with fewer levels")
    if isinstance(found, list):
        for one in found:
            _check_filter(one, depth + 1)
    if not isinstance(found, dict):
        _check_scalar(found)
        return
    for key, value in found.items():
        if key == "$expr":
            _check_expressions(value, 0)
            continue
        if key.startswith("$") and key not in FILTERS:
            raise _refused(f"a filter has {key!r}", "use operators that compare the documents' own fields")
        _check_filter(value, depth + 1)


_SYSTEM_VARIABLE: Final = re.compile(r"\$\$(?!(?:ROOT|CURRENT|NOW|REMOVE)(?:\.|\Z))[A-Z]")


def _check_expressions(found: object, depth: int, also: frozenset[str] = frozenset()) -> None:
    """Each operator of an expression at any depth is one that is known."""
    if depth > _DEEPEST:
        raise _refused("an expression is too deep", "write it with fewer levels")
    if isinstance(found, list):
        for one in found:
            _check_expressions(one, depth + 1, also)
    if not isinstance(found, dict):
        _check_scalar(found)
        if isinstance(found, str) and _SYSTEM_VARIABLE.match(found):  # $$USER_ROLES tells what our own user may do
            raise _refused("an expression has a variable of the server's", "use the documents' own fields")
        return
    for key, value in found.items():
        if key.startswith("$") and key not in EXPRESSIONS and key not in also:
            raise _refused(f"an expression has {key!r}", "use operators that compute with the documents' own fields")
        _check_expressions(value, depth + 1, also)


def _check_scalar(found: object) -> None:
    from bson.code import Code
    from bson.dbref import DBRef

    if isinstance(found, Code | DBRef):
        raise _refused(f"there is a {type(found).__name__} in it", "pass plain values: no code, no reference")


def _refused(problem: str, fix: str) -> DocumentRefused:
    return DocumentRefused("this operation on documents is refused", detail=problem, hint=fix)
