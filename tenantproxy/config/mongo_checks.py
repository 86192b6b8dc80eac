"""Do [mongo] and a registry in MongoDB agree with each other?"""

from __future__ import annotations

from collections.abc import Iterator

from tenantproxy.config.mongo_section import MongoRegistrySettings, MongoSettings
from tenantproxy.config.problems import nearest
from tenantproxy.config.tenant_sections import RegistrySettings
from tenantproxy.errors import Problem

__all__ = ["mongo_problems"]


def mongo_problems(mongo: MongoSettings | None, registry: RegistrySettings | None) -> Iterator[Problem]:
    """Clusters that are named and not configured, and collections of all tenants that are a tenant's too."""
    if mongo is None:
        return
    if mongo.cluster:
        yield from _unknown("mongo.cluster", mongo.cluster, mongo)
    elif mongo.shared and not mongo.default_cluster:
        problem = "is missing, and it is not plain which of the clusters has the shared collections"
        yield Problem(key="mongo.cluster", problem=problem, fix="name one of [mongo.clusters]")
    if registry is None:
        return
    if registry.source != "mongodb":
        if registry.mongodb != MongoRegistrySettings():
            yield Problem(key="registry.mongodb", problem='is only read with source = "mongodb"', fix="remove it")
        return
    where = registry.mongodb.cluster or mongo.default_cluster
    if where:
        yield from _unknown("registry.mongodb.cluster", where, mongo)
    else:
        problem = "is missing, and the registry is in none of [mongo.clusters] by itself"
        fix = 'add [mongo.clusters.main] with hosts = ["host:27017"], or name one that is there'
        yield Problem(key="registry.mongodb.cluster", problem=problem, fix=fix)
    name = f"{registry.mongodb.database}.{registry.mongodb.collection}"
    if name in mongo.shared:
        problem = f"names {name}, which is the registry: tenants would write where each of them is"
        yield Problem(key="mongo.shared", problem=problem, fix="remove it")


def _unknown(key: str, name: str, mongo: MongoSettings) -> Iterator[Problem]:
    if name in mongo.clusters:
        return
    close = nearest(name, mongo.clusters)
    problem = f"names the cluster {name!r}, which is not in [mongo.clusters]"
    yield Problem(key=key, problem=problem, fix=f"did you mean {close}?" if close else f"add [mongo.clusters.{name}]")
