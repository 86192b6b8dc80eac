"""Which settings does a request bring into its session, and how are those proven that its tenant's SQL must not change?

Pure. The other half is lifecycle/sql/signed_settings.sql; facts and attacks: docs/isolation.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from tenantproxy.errors import InvalidSetting
from tenantproxy.isolation.proof import Signer
from tenantproxy.isolation.row import BindStatement, window_us
from tenantproxy.model import Binding, Proof, Session

__all__ = [
    "MAX_CONTEXT_BYTES",
    "NO_CONTEXT",
    "check_values",
    "signing",
    "with_context",
]

MAX_CONTEXT_BYTES: Final = 16 * 1024
"""Names and values of one session together; each of its statements carries them."""

NO_CONTEXT: Final = "{}"
"""What is signed for a session whose caller gives no signed setting: no former one holds then."""

_AT_ONCE: Final = 10.0  # seconds
_BIND: Final = "SELECT tenantproxy.sign_context($1, $2)"
_CARRY: Final = (
    "SELECT pg_catalog.set_config('app.context', $1, false), pg_catalog.set_config('app.context_proof', $2, false)"
)


def check_values(context: Iterable[tuple[str, str]]) -> None:
    """Raises InvalidSetting for values that no session can have. The error names the setting, never its value."""
    size = 0
    for name, value in context:
        if not isinstance(value, str):
            raise InvalidSetting(
                "a value of the context is no text", detail=f"{name!r} is a {type(value).__name__}", hint="give a str"
            )
        if "\0" in value:
            raise InvalidSetting(
                "a value of the context has a NUL in it", detail=repr(name), hint="PostgreSQL has none"
            )
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise InvalidSetting(
                "a value of the context cannot be written in UTF-8", detail=repr(name), hint="it has half a character"
            ) from None
    if size > MAX_CONTEXT_BYTES:
        raise InvalidSetting(
            "the context is too long",
            detail=f"{size} bytes of names and values, and at most {MAX_CONTEXT_BYTES} are taken",
            hint="put what is large into a table, and its key into the context",
        )


def with_context(session: Session, context: tuple[tuple[str, str], ...], names: Collection[str]) -> Session:
    """`session` with the settings of its caller; those of `names` (in lower case) are signed where the tenant is."""
    if session.signed is None:
        return replace(session, context=context)
    chosen = {name.lower(): value for name, value in context if name.lower() in names}
    text = json.dumps(chosen, ensure_ascii=False, sort_keys=True) if chosen else NO_CONTEXT
    return replace(session, context=context, signed=text)


def signing(
    binding: Binding, context: str, signer: Signer | None, *, pid: int, server_now: float, window: float
) -> BindStatement:
    """The statement that gives a session, which is the tenant's already, its signed settings.

    Raises ValueError without a signer. Its answer is the context. The text of what is sent holds no proof: other
    sessions of the role can read texts.
    """
    if signer is None:
        raise ValueError("a signed session needs a signer")
    is_carried = binding.proof is Proof.CARRIED  # else it is looked at once, and at once
    start, end = window_us(server_now, window if is_carried else min(window, _AT_ONCE))
    proof = signer.sign_context(binding.tenant, context, pid=pid, from_us=start, to_us=end)
    return BindStatement(_CARRY if is_carried else _BIND, (context, proof), context)
