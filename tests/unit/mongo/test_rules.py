"""Is what goes to MongoDB for a tenant that tenant's alone, whatever a caller writes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from bson import Code, DBRef, Decimal128, Int64, ObjectId, Regex, encode
from bson.raw_bson import RawBSONDocument

from tenantproxy.errors import DocumentRefused
from tenantproxy.model import tenant_id
from tenantproxy.mongo.documents import own_database
from tenantproxy.mongo.rules import OwnRules, SharedRules

SHARED = SharedRules("tenant_id", "tenant-001")
OWN = OwnRules()
BOTH = pytest.mark.parametrize("rules", [SHARED, OWN], ids=["shared", "own"])


class TwoFaced(dict[str, Any]):
    """Says one thing when it is looked at, and another when it is looked at again."""

    def __init__(self, first: Mapping[str, Any], then: Mapping[str, Any]) -> None:
        super().__init__(first)
        self._then = then

    def items(self) -> Any:
        found, self._now = getattr(self, "_now", dict(self)), self._then
        return dict(found).items()

    def __iter__(self) -> Iterator[str]:
        return iter([*super().keys(), *self._then])


def test_a_filter_is_of_the_tenant_whatever_else_it_asks_for() -> None:
    assert SHARED.filter(None) == SHARED.filter({}) == {"tenant_id": "tenant-001"}
    asked = {"$or": [{"status": "failed"}, {"priority": {"$gt": 5}}], "_id": {"$in": [1, 2]}}
    assert SHARED.filter(asked) == {**asked, "tenant_id": "tenant-001"}
    assert SHARED.filter({"tenant_id": "tenant-001"}) == {"tenant_id": "tenant-001"}


@pytest.mark.parametrize(
    "given",
    [
        {"tenant_id": "tenant-002"},
        {"tenant_id": {"$ne": "tenant-001"}},
        {"tenant_id": {"$in": ["tenant-001", "tenant-002"]}},
        {"tenant_id": None},
        {"tenant_id": Regex(".*")},
        {"tenant_id.x": 1},
        {"$or": [{"tenant_id": "tenant-002"}, {"status": "failed"}]},
        {"$and": [{"$nor": [{"tenant_id": {"$eq": "tenant-002"}}]}]},
        RawBSONDocument(encode({"tenant_id": "tenant-002"})),
    ],
)
def test_a_filter_that_names_another_tenant_is_refused(given: Any) -> None:
    with pytest.raises(DocumentRefused, match="tenant_id"):
        SHARED.filter(given)


CODE = [
    {"$where": "true"},
    {"$where": Code("function() { return true }")},
    {"a": {"$where": "true"}},
    {"$or": [{"$where": "true"}]},
    {"$and": [{"a": {"$not": {"$where": "1"}}}]},
    {"a": {"$elemMatch": {"$where": "1"}}},
    {"$expr": {"$function": {"body": "function() { return true }", "args": [], "lang": "js"}}},
    {"$expr": {"$eq": [{"$function": {"body": "", "args": [], "lang": "js"}}, 1]}},
    {"$expr": {"$in": ["root", "$$USER_ROLES.role"]}},
    {"$expr": {"$accumulator": {}}},
    {"$jsonSchema": {"required": ["a"]}},
    {"$near": [0, 0]},
    {"$newOperator": 1},
    {"a": {"$newOperator": 1}},
    {"a": Code("1")},
    {"a": DBRef("users", 1)},
    {"a": {"$ref": "users", "$id": 1, "$where": "1"}},
]


@BOTH
@pytest.mark.parametrize("given", CODE, ids=str)
def test_a_filter_runs_no_code_and_has_no_operator_that_is_not_known(rules: OwnRules, given: Any) -> None:
    for part in (given, RawBSONDocument(encode(given))):
        with pytest.raises(DocumentRefused):
            rules.filter(part)
        with pytest.raises(DocumentRefused):
            rules.pipeline([{"$match": part}])


@BOTH
@pytest.mark.parametrize("given", ["{}", b"{}", [{}], 7, {1}, {1: 2}, {"a": {1}}, {"a\0b": 1}], ids=str)
def test_what_is_no_document_is_refused(rules: OwnRules, given: Any) -> None:
    for ask in (rules.filter, rules.insert, rules.update):
        with pytest.raises(DocumentRefused):
            ask(given)


def test_a_document_that_changes_while_it_is_looked_at_is_sent_as_it_was_looked_at() -> None:
    given = TwoFaced({"status": "failed"}, {"tenant_id": "tenant-002"})
    try:
        sent = SHARED.filter(given)
    except DocumentRefused:
        return
    assert sent["tenant_id"] == "tenant-001"
    assert type(sent) is dict
    mine = {"a": {"b": 1}}
    sent = SHARED.filter(mine)
    mine["a"]["b"] = 2
    assert sent["a"] == {"b": 1}


def test_values_of_every_type_arrive_as_they_were() -> None:
    given = {
        "_id": ObjectId(), "a": Int64(1), "b": uuid4(), "c": datetime(2026, 1, 1), "d": Decimal128("1.5"), "e": b"x",  # noqa: DTZ001
        "f": [1, {"g": None}], "h": Regex("^a", "i"), "i": 1.5, "j": True,
    }  # fmt: skip
    assert OWN.insert(given) == given
    assert OWN.insert({"at": datetime(2026, 1, 1, tzinfo=UTC)}) == {"at": datetime(2026, 1, 1)}  # noqa: DTZ001 - BSON has no zone


def test_a_document_is_written_as_the_tenants() -> None:
    assert SHARED.insert({"a": 1}) == {"a": 1, "tenant_id": "tenant-001"}
    assert SHARED.insert({"a": 1, "tenant_id": "tenant-001"}) == {"a": 1, "tenant_id": "tenant-001"}


@pytest.mark.parametrize("given", ["tenant-002", None, ["tenant-001", "tenant-002"], {"a": 1}, 7, "tenant-001 "])
def test_a_document_of_another_tenant_is_refused(given: Any) -> None:
    with pytest.raises(DocumentRefused, match="tenant_id"):
        SHARED.insert({"tenant_id": given})
    with pytest.raises(DocumentRefused, match="tenant_id"):
        SHARED.insert({"tenant_id.x": given})
    with pytest.raises(DocumentRefused):
        SHARED.insert({"$set": {"tenant_id": given}})


@pytest.mark.parametrize(
    "update",
    [
        {"$set": {"tenant_id": "tenant-002"}},
        {"$set": {"tenant_id": "tenant-001"}},
        {"$set": {"tenant_id.x": 1}},
        {"$setOnInsert": {"tenant_id": "tenant-002"}},
        {"$unset": {"tenant_id": ""}},
        {"$rename": {"tenant_id": "was"}},
        {"$rename": {"other": "tenant_id"}},
        {"$currentDate": {"tenant_id": True}},
        {"$push": {"tenant_id": "tenant-002"}},
        {"$min": {"tenant_id": "tenant-000"}},
        {"$set": {"a": 1}, "$max": {"tenant_id": "z"}},
    ],
    ids=str,
)
def test_an_update_does_not_give_a_document_to_another_tenant(update: Any) -> None:
    with pytest.raises(DocumentRefused, match="tenant_id"):
        SHARED.update(update)


@BOTH
@pytest.mark.parametrize(
    "update",
    [
        [{"$set": {"a": 1}}],
        {"a": 1},
        {},
        {"$set": 1},
        {"$set": {"a": 1}, "b": 1},
        {"$replaceRoot": {"newRoot": {}}},
        {"$newOperator": {"a": 1}},
        {"$rename": {"a": 7}},
        {"$set": {"$where": 1}},
        {"$pull": {"a": {"$where": "1"}}},
    ],
    ids=str,
)
def test_an_update_is_a_document_of_known_operators(rules: OwnRules, update: Any) -> None:
    with pytest.raises(DocumentRefused):
        rules.update(update)


def test_an_aggregation_begins_with_the_tenants_documents() -> None:
    asked = [{"$group": {"_id": "$status", "n": {"$sum": 1}}}, {"$sort": {"n": -1}}, {"$limit": 3}]
    assert SHARED.pipeline(asked) == [{"$match": {"tenant_id": "tenant-001"}}, *asked]
    assert SHARED.pipeline([]) == [{"$match": {"tenant_id": "tenant-001"}}]
    facets = [{"$facet": {"a": [{"$count": "n"}], "b": [{"$match": {"x": 1}}]}}]
    assert SHARED.pipeline(facets)[1:] == facets


ELSEWHERE = [
    {"$lookup": {"from": "users", "localField": "a", "foreignField": "b", "as": "c"}},
    {"$lookup": {"from": "tasks", "pipeline": [], "as": "c"}},
    {"$graphLookup": {"from": "tasks", "startWith": "$a", "connectFromField": "a", "connectToField": "b", "as": "c"}},
    {"$unionWith": "tasks"},
    {"$unionWith": {"coll": "tasks", "pipeline": []}},
    {"$out": "stolen"},
    {"$merge": {"into": "stolen"}},
]
NEVER = [
    {"$out": {"db": "tenant_002_db", "coll": "stolen"}},
    {"$merge": {"into": {"db": "tenant_002_db", "coll": "stolen"}}},
    {"$merge": {"into": "mine", "whenMatched": [{"$set": {"a": 1}}]}},
    {"$lookup": {"from": {"db": "tenant_002_db", "coll": "tasks"}, "as": "c"}},
    {"$lookup": {"from": "system.views", "as": "c"}},
    {"$unionWith": "system.users"},
    {"$unionWith": {"coll": "mine", "pipeline": [{"$unionWith": {"coll": {"db": "x", "coll": "y"}}}]}},
    {"$lookup": {"from": "mine", "pipeline": [{"$match": {"$where": "1"}}], "as": "c"}},
    {"$lookup": {"from": "mine", "let": {"a": {"$function": {}}}, "as": "c"}},
    {"$graphLookup": {"from": "mine", "restrictSearchWithMatch": {"$where": "1"}, "as": "c"}},
    {"$facet": {"a": [{"$out": {"db": "x", "coll": "y"}}]}},
    {"$facet": {"a": {"$out": "x"}}},
    {"$facet": [{"$out": "x"}]},
    {"$collStats": {}},
    {"$indexStats": {}},
    {"$currentOp": {"allUsers": True}},
    {"$listSessions": {"allUsers": True}},
    {"$listLocalSessions": {}},
    {"$planCacheStats": {}},
    {"$changeStream": {"allChangesForCluster": True}},
    {"$documents": [{"a": 1}]},
    {"$queryStats": {}},
    {"$geoNear": {"near": [0, 0], "distanceField": "d"}},
    {"$search": {}},
    {"$redact": "$$KEEP"},
    {"$newStage": {}},
    {"$project": {"a": {"$function": {"body": "", "args": [], "lang": "js"}}}},
    {"$addFields": {"a": {"$cond": [True, {"$function": {}}, 1]}}},
    {"$group": {"_id": None, "a": {"$accumulator": {"init": "", "accumulate": "", "merge": "", "lang": "js"}}}},
    {"$replaceRoot": {"newRoot": {"$function": {}}}},
    {"$bucket": {"groupBy": {"$function": {}}, "boundaries": [0, 1]}},
    {"$setWindowFields": {"output": {"a": {"$function": {}}}}},
    {"$match": {}, "$out": "x"},
    {},
    "$out",
    [{"$out": "x"}],
]


@pytest.mark.parametrize("stage", [*ELSEWHERE, *NEVER], ids=str)
def test_an_aggregation_of_a_shared_collection_sees_and_writes_no_other(stage: Any) -> None:
    for stages in ([stage], [{"$match": {}}, stage], [{"$facet": {"a": [stage]}}]):
        with pytest.raises(DocumentRefused):
            SHARED.pipeline(stages)


@pytest.mark.parametrize("stage", NEVER, ids=str)
def test_an_aggregation_of_a_tenants_own_database_does_not_leave_it(stage: Any) -> None:
    with pytest.raises(DocumentRefused):
        OWN.pipeline([stage])


@pytest.mark.parametrize("stage", ELSEWHERE, ids=str)
def test_collections_of_a_tenants_own_database_can_be_joined(stage: Any) -> None:
    assert OWN.pipeline([stage]) == [stage]


def test_what_nests_without_end_is_refused() -> None:
    deep: Any = []
    for _ in range(150):
        deep = [{"$facet": {"a": deep}}]
    with pytest.raises(DocumentRefused):
        SHARED.pipeline(deep)
    cycle: dict[str, Any] = {}
    cycle["a"] = cycle
    with pytest.raises(DocumentRefused):
        SHARED.filter(cycle)


@BOTH
@pytest.mark.parametrize("given", [{"a": {"$function": {}}}, {"a": {"$where": "1"}}, 7, {"a": Code("1")}], ids=str)
def test_a_projection_computes_with_known_operators_alone(rules: OwnRules, given: Any) -> None:
    with pytest.raises(DocumentRefused):
        rules.projection(given)
    assert rules.projection({"a": 1, "_id": 0}) == {"a": 1, "_id": 0}
    assert rules.projection(["a", "b"]) == {"a": 1, "b": 1}


@BOTH
@pytest.mark.parametrize("given", [7, [("a", 2)], [("a",)], ["a"], [("$where", 1)], [("a\0", 1)], [(1, 1)]], ids=str)
def test_a_sort_is_fields_with_a_direction(rules: OwnRules, given: Any) -> None:
    with pytest.raises(DocumentRefused):
        rules.sort(given)
    assert rules.sort({"a": -1}) == rules.sort([("a", -1)]) == [("a", -1)]
    assert rules.sort("a") == [("a", 1)]


def test_a_tenants_database_is_named_after_it() -> None:
    assert own_database("{id}_db", tenant_id("tenant-001")) == "tenant_001_db"


def test_tenants_that_differ_have_databases_that_differ() -> None:
    first = own_database("{id}_db", tenant_id("tenant_001"))
    digits = first.removeprefix("tenant_001__").removesuffix("_db")
    ids = [
        "tenant-001", "tenant_001", "tenant.001", "Tenant-001", "TENANT_001", "tenant--001", "tenant-001-", "x" * 63,
        "x" * 62, "x" * 61 + "-y", f"tenant-001-{digits}", f"tenant-001--{digits}", f"tenant_001__{digits}", "a", "a_",
    ]  # fmt: skip
    names = [own_database("{id}_db", tenant_id(each)) for each in ids]
    assert len({name.lower() for name in names}) == len(ids)
    assert all(len(name) <= 63 for name in names)
