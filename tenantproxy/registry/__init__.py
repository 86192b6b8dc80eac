"""Where does a tenant live?"""

from tenantproxy.registry.base import Announces, Registry, RegistryDatabase, TenantMisconfigured
from tenantproxy.registry.cached import CachedRegistry, Entry
from tenantproxy.registry.factory import build, cache, prepare, prepare_shared
from tenantproxy.registry.file import FileRegistry
from tenantproxy.registry.memory import MemoryRegistry
from tenantproxy.registry.mongo import MongoRegistry
from tenantproxy.registry.postgres import SCHEMA_SQL, PostgresRegistry
from tenantproxy.registry.rows import RowReader
from tenantproxy.registry.unusable import unusable

__all__ = [
    "SCHEMA_SQL",
    "Announces",
    "CachedRegistry",
    "Entry",
    "FileRegistry",
    "MemoryRegistry",
    "MongoRegistry",
    "PostgresRegistry",
    "Registry",
    "RegistryDatabase",
    "RowReader",
    "TenantMisconfigured",
    "build",
    "cache",
    "prepare",
    "prepare_shared",
    "unusable",
]
