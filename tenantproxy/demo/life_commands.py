"""What does an operator type in a tenant's life? The demo prints these commands, and its tour runs the same ones."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from tenantproxy.demo.commands import Typed, ourselves, run_command
from tenantproxy.demo.people import email_of
from tenantproxy.demo.world import World
from tenantproxy.model import Isolation

__all__ = ["AGAIN", "BANK", "CAFE", "CLINIC", "KINDS", "SHOP", "LifeCommand", "life_commands"]

SHOP: Final = "shop"
"""Begins as rows in shared tables, and ends in a database of its own."""
CLINIC: Final = "clinic"
BANK: Final = "bank"
CAFE: Final = "cafe"
"""Shares the tables that the shop leaves."""
AGAIN: Final = "bank2"
"""What was the bank's, restored."""
KINDS: Final = {SHOP: Isolation.ROW, CLINIC: Isolation.SCHEMA, BANK: Isolation.DATABASE}


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeCommand:
    """One command. `arguments`: of `tenantproxy`, with the path of its configuration."""

    about: str
    arguments: tuple[str, ...]
    folder: str

    def line(self) -> str:
        """As one types it in a shell, anywhere."""
        return shlex.join(("tenantproxy", *self.arguments))

    @property
    def title(self) -> str:
        """As one types it in the folder of the configuration."""
        short = [each.removeprefix(f"{self.folder}/") for each in self.arguments[:-2]]
        return f"$ {shlex.join(('tenantproxy', *short))}"

    async def run(self) -> Typed:
        """See `run_command`."""
        return await run_command((*ourselves(), *self.arguments))


def life_commands(world: World, *, public_url: str, pg_address: str) -> dict[str, LifeCommand]:
    """All of them by a short name, in the order of a life."""
    folder = str(world.config.parent)
    password, export = f"{folder}/people_password", f"{folder}/export"
    creates = {
        f"create {tenant}": (
            f"a tenant is made: {kind.value}",
            f"tenants create {tenant} --isolation {kind.value} --admin {email_of(tenant)}"
            f" --admin-password-file {password} --json",
        )
        for tenant, kind in KINDS.items()
    }
    lines = {
        **creates,
        f"create {CAFE}": ("and one that stays where it is", f"tenants create {CAFE} --isolation row --json"),
        "migrate": ("the application's next version has one file more", "migrate run --json"),
        "back up": ("all are saved", f"backup create {' '.join(KINDS)} --json"),
        "verify": ("and restored into a scratch place, to compare", f"backup verify {' '.join(KINDS)} --json"),
        "to a schema": ("out of the shared tables", f"tenants move {SHOP} --to-kind schema --drop-old --json"),
        "to a database": ("and out of the schema", f"tenants move {SHOP} --to-kind database --drop-old --json"),
        "suspend": ("it is refused everywhere", f"tenants suspend {CLINIC} --json"),
        "resume": ("and served again", f"tenants resume {CLINIC} --json"),
        "export": ("all that a tenant holds, with a signed report", f"gdpr export {CLINIC} --into {export} --json"),
        "check": ("the report is genuine", f"gdpr verify {export}/report.json --json"),
        "delete": ("with a grace of seven days", f"tenants delete {BANK} --json"),
        "undelete": ("which is taken back", f"tenants undelete {BANK} --json"),
        "archive": ("saved, verified, and not served", f"tenants archive {BANK} --json"),
        "delete now": ("removed, behind a verified backup", f"tenants delete {BANK} --grace 0 --json"),
        "create again": ("a name comes once", f"tenants create {BANK} --json"),
        "restore": ("what it had comes back under a new name", f"backup restore {BANK} --as {AGAIN} --json"),
        "doctor": ("does isolation hold, as the catalogues say it?", "doctor"),
        "prove": (
            "and as an attacker finds it, between the one that was moved and the one that was restored?",
            f"prove --tenants {SHOP},{AGAIN} --http {public_url} --pg {pg_address} --timeout 300",
        ),
    }
    config = ("--config", str(world.config))
    return {
        name: LifeCommand(about=about, arguments=(*shlex.split(line), *config), folder=folder)
        for name, (about, line) in lines.items()
    }
