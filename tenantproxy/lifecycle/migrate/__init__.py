"""How do the schemas of all tenants come to one version? Numbered SQL files, a journal in each place, waves."""

from tenantproxy.lifecycle.migrate.plan import MigrationsDiffer, SchemaPlace
from tenantproxy.lifecycle.migrate.run import Migrated, Migrator, all_targets, targets_of
from tenantproxy.lifecycle.migrate.runs import MigrationsRunning, last_run

__all__ = [
    "Migrated",
    "MigrationsDiffer",
    "MigrationsRunning",
    "Migrator",
    "SchemaPlace",
    "all_targets",
    "last_run",
    "targets_of",
]
