"""How are the schemas of tenants kept up? Where the numbered files are, and how carefully they are applied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tenantproxy.config.section import Section
from tenantproxy.config.values import Count, Name, NoTimeout, Seconds, Size, Text, told

__all__ = ["MigrationSettings"]


class MigrationSettings(Section):
    """What `migrate` applies. Times in seconds.

    `source`: what is in the folders; numbered SQL files, an alembic project (`alembic.ini`) or a Django project, whose
    settings are the module `django_settings`. `python`: what runs a project, by default the Python of this process.
    `folder`: numbered SQL files (`0001_name.sql`, to undo it `0001_name.down.sql`) for each tenant's database or
    schema, and once for each database of row tenants; `system_folders`: by the name of a system, for the schemas of
    `tenants.systems`. `lock_timeout`: how long a file waits for a lock before it gives way and is tried again, up to
    `retries` times. `canary`: tenants that come first; the others only when these succeeded. `max_failures`: with more
    than so many, none is begun any more. `parallel`: at once on one server. `column`: what says whose a shared row is.
    `through`: columns by which rows of tables without it refer to one that has it, by the name of that table.
    """

    source: Literal["files", "alembic", "django"] = "files"
    folder: Text = ""
    system_folders: Mapping[Name, Text] = Field(default_factory=dict)
    lock_timeout: Seconds = 2.0
    statement_timeout: NoTimeout = 0.0
    retries: Count = 10
    canary: Count = 1
    max_failures: Count = 0
    parallel: Annotated[Size, Field(le=64)] = 4
    column: Name = "tenant_id"
    through: Mapping[Name, Text] = Field(default_factory=dict)
    python: Text = ""
    django_settings: Text = ""

    @model_validator(mode="after")
    def _check_project(self) -> Self:
        if self.source == "django" and not self.django_settings:
            raise told("django_settings is missing", 'name the module: django_settings = "shop.settings"')
        return self
