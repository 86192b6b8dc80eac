"""What is a client told of its settings that has a session for one transaction only? What they are for it, not there.

What was set for the transaction alone goes back, at its end, to what the session has: of that it must not hear. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from tenantproxy.wire.frames import PARAMETER_STATUS, frame

__all__ = ["ReportedSettings"]


class ReportedSettings:
    """Of one lease. `own`: what its client has, by names in lower case, of what is set for the transaction alone."""

    __slots__ = ("_heard", "_own", "_told")

    def __init__(self, own: Mapping[bytes, bytes]) -> None:
        self._own = own
        self._heard: dict[bytes, bytes] = {}  # since ReadyForQuery
        self._told: dict[bytes, bytes] = {}

    def begin(self, parameters: Mapping[bytes, bytes]) -> None:
        """The first transaction has begun, in which the server reported these."""
        self._told = self._told or dict(parameters)

    def hear(self, payload: bytes, *, is_end: bool) -> None:
        """A ParameterStatus. `is_end`: what was set in the transaction is not in force any more."""
        name, _, rest = payload.partition(b"\0")
        value = rest.partition(b"\0")[0]
        self._heard[name] = self._own.get(name.lower(), value) if is_end else value

    def revert(self) -> None:
        """What was heard since ReadyForQuery is what is in force behind the transaction."""
        self._heard = {name: self._own.get(name.lower(), value) for name, value in self._heard.items()}

    def forget(self) -> None:
        """What was heard is our own doing."""
        self._heard.clear()

    def news(self) -> bytes:
        """The ParameterStatus of what the client does not know yet."""
        fresh = {name: value for name, value in self._heard.items() if self._told.get(name) != value}
        self._heard.clear()
        self._told.update(fresh)
        return b"".join(frame(PARAMETER_STATUS, name + b"\0" + value + b"\0") for name, value in fresh.items())
