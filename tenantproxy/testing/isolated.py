"""Does the application show one tenant what another one wrote? Written by its own code, read by its own code."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Final, Protocol

from tenantproxy.context import use
from tenantproxy.scope import TenantScope

__all__ = ["IsolationLeak", "assert_isolated", "fresh_secret", "holds"]

_ROUNDS: Final = 10  # of both tenants reading at once
_DEEPEST: Final = 20

Write = Callable[[TenantScope, str], Awaitable[object]]
Read = Callable[[TenantScope], Awaitable[object]]


class IsolationLeak(AssertionError):
    """One tenant was shown what belongs to another."""


class GivesScopes(Protocol):
    """A `Router`, or a `FakeRouter`."""

    def tenant(self, tenant: str, /) -> TenantScope:
        """The scope of a tenant."""
        ...


def fresh_secret() -> str:
    """Text that stands nowhere else."""
    return f"secret-{secrets.token_hex(12)}"


async def assert_isolated(router: GivesScopes, first: str, second: str, *, write: Write, read: Read) -> None:
    """What either tenant writes by `write`, the other one never reads by `read`: alone, and both at once.

    `write(scope, text)` stores `text` by the application's code as data of `scope`'s tenant; `read(scope)` returns
    whatever the application shows that tenant, of any type. Both run with the tenant as `tenantproxy.current()`.
    What was written stays: undo it, or use a database of the test's own.

    Raises IsolationLeak (an AssertionError), and AssertionError when a tenant does not read what it wrote itself: then
    nothing would be proven. Errors of `write` and `read` pass through.
    """
    if first == second:
        raise ValueError("two different tenants are needed")
    written = {tenant: fresh_secret() for tenant in (first, second)}
    for tenant, text in written.items():
        scope = router.tenant(tenant)
        with use(scope):
            await write(scope, text)
        if not holds(await _read(router, read, tenant), text):
            raise AssertionError(f"{tenant} does not read what it wrote: nothing can be proven by this `read`")
    for tenant in written:
        _check(tenant, await _read(router, read, tenant), written)
    tenants = [first, second] * _ROUNDS
    for tenant, seen in zip(
        tenants, await asyncio.gather(*(_read(router, read, each) for each in tenants)), strict=True
    ):
        _check(tenant, seen, written)
        if not holds(seen, written[tenant]):
            raise AssertionError(f"{tenant} does not read what it wrote, while {first} and {second} read at once")


async def _read(router: GivesScopes, read: Read, tenant: str) -> object:
    scope = router.tenant(tenant)
    with use(scope):
        return await read(scope)


def _check(tenant: str, seen: object, written: Mapping[str, str]) -> None:
    for other, text in written.items():
        if other != tenant and holds(seen, text):
            raise IsolationLeak(f"{tenant} is shown what {other} wrote")


def holds(value: object, text: str, depth: int = 0) -> bool:
    """Whether `text` is anywhere in `value`: rows, JSON, bytes, responses, objects and what they hold."""
    if isinstance(value, str):
        return text in value
    if isinstance(value, bytes | bytearray | memoryview):
        return text.encode() in bytes(value)
    if value is None or isinstance(value, int | float) or depth > _DEEPEST:
        return False
    return text in repr(value) or any(holds(each, text, depth + 1) for each in _parts(value))


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, Iterable):
        return list(value) if not hasattr(value, "__next__") else []  # what is read once is the application's
    return list(vars(value).values()) if hasattr(value, "__dict__") else []
