"""Which registry does the configuration ask for?"""

from __future__ import annotations

import time
from collections.abc import Callable

from tenantproxy.config import Settings
from tenantproxy.config.own import make_own
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.events import Observer, ignore
from tenantproxy.mongo.clusters import MongoClusters
from tenantproxy.registry.base import Registry, RegistryDatabase
from tenantproxy.registry.cached import CachedRegistry
from tenantproxy.registry.file import FileRegistry
from tenantproxy.registry.mongo import MongoRegistry
from tenantproxy.registry.mongo_document import DocumentReader
from tenantproxy.registry.postgres import PostgresRegistry
from tenantproxy.registry.rows import RowReader
from tenantproxy.registry.sealed import Seal

__all__ = ["build", "cache", "prepare", "prepare_shared"]


def build(settings: Settings, database: RegistryDatabase, *, clusters: MongoClusters | None = None) -> Registry:
    """The registry of `[registry] source`, without a cache. `database` is the main one. Raises ConfigurationError.

    `clusters`: those of the caller, which it closes; None: a registry that needs some makes and closes its own.
    """
    registry = settings.registry
    match registry.source:
        case "file":
            return FileRegistry(settings)
        case "postgres":
            return PostgresRegistry(
                database,
                reader=_reader(settings),
                query=registry.query,
                list_query=registry.list_query,
                timeout=registry.lookup_timeout,
            )
        case "mongodb":
            return MongoRegistry(settings, clusters=clusters)
        case _:
            return _own(registry.source, settings)


def prepare(inner: Registry, settings: Settings) -> Callable[[], None]:
    """Get ready to know the tenants and servers of `settings`; what this returns does it. Raises ConfigurationError."""
    if isinstance(inner, FileRegistry):
        return inner.prepare(settings)
    if isinstance(inner, PostgresRegistry):
        reader = _reader(settings)
        return lambda: inner.adopt(reader)
    if isinstance(inner, MongoRegistry):
        documents = DocumentReader(settings)
        return lambda: inner.adopt(documents)
    return lambda: None


def _reader(settings: Settings) -> RowReader:
    return RowReader(
        default_server=settings.main.server,
        servers=frozenset(settings.servers),
        rows=not settings.row.signed or bool(settings.row.keys()),
    )


def cache(
    inner: Registry,
    settings: Settings,
    *,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    observer: Observer = ignore,
) -> CachedRegistry:
    """`inner` behind the cache that `[registry]` describes. Raises ConfigurationError."""
    registry = settings.registry
    cached = CachedRegistry(
        inner,
        ttl=registry.cache_ttl,
        negative_ttl=registry.negative_ttl,
        max_entries=registry.max_entries,
        stale_for=registry.stale_for,
        lookup_timeout=registry.lookup_timeout,
        clock=clock,
        wall=wall,
        observer=observer,
    )
    if registry.redis.address:
        cached.share(registry.redis, _seal(settings))
    return cached


def prepare_shared(cached: CachedRegistry, settings: Settings) -> Callable[[], None]:
    """Get ready to share entries of `settings`; what this returns does it. Raises ConfigurationError."""
    if cached.shared is None:
        return lambda: None
    shared, seal = cached.shared, _seal(settings)
    return lambda: shared.adopt(seal)


def _seal(settings: Settings) -> Seal:
    key = settings.registry.redis.key
    assert key is not None, "the section has one, or no address"
    return Seal(key.read_bytes(), settings)


def _own(source: str, settings: Settings) -> Registry:
    """An instance of the class that `source` names as `pkg.mod:Class`, called with the settings."""
    if ":" not in source:
        raise _refused("is not a registry that is known", 'use "file", "postgres", "mongodb" or "pkg.mod:Class"')
    made: Registry = make_own(
        source,
        settings,
        key="registry.source",
        protocol="tenantproxy.registry.base.Registry",
        has=("source", "get", "tenants", "open", "close"),
    )
    return made


def _refused(problem: str, fix: str) -> ConfigurationError:
    return ConfigurationError([Problem(key="registry.source", problem=problem, fix=fix)])
