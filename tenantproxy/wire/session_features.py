"""May a client leave something in its session that only one backend has? And what does it hear if it may not?

`[pg] session_features`: "pin" keeps the backend for the client as long as something is left, within a limit of each
tenant; "refuse" runs no text that would leave it; "warn" says that it does not last. In any case the backend is reset
before another client has it: nothing here is part of the wall between tenants.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from tenantproxy.errors import NotSupported, TenantProxyError, TooManyPinned
from tenantproxy.wire import answers
from tenantproxy.wire.leftovers import ADVISORY_LOCK, ANYTHING, CUSTOM, HELD_CURSOR, SETTING, TEMPORARY
from tenantproxy.wire.session_settings import KeptSettings

__all__ = ["FeaturePolicy", "PinPlaces", "SessionFeatures", "no_place"]

FeaturePolicy: TypeAlias = Literal["pin", "refuse", "warn"]

_NAMES: Final = {
    TEMPORARY: "temporary tables",
    HELD_CURSOR: "cursors WITH HOLD",
    ADVISORY_LOCK: "advisory locks of the session",
    SETTING | CUSTOM: "settings that do not go along with the client",
}
_NO_REFUSAL: Final = NotSupported("nothing was refused")
_INSTEAD: Final = {
    TEMPORARY: "create them ON COMMIT DROP",
    HELD_CURSOR: "declare them without HOLD",
    ADVISORY_LOCK: "take pg_advisory_xact_lock",
    SETTING | CUSTOM: "use SET LOCAL, or true as the last argument of set_config",
}


class PinPlaces:
    """How many clients of one tenant may keep a backend for what they left on it. `limit` 0: all of them."""

    __slots__ = ("__weakref__", "_refused", "limit", "used")

    def __init__(self, limit: int = 0, refused: list[int] | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._refused = [0] if refused is None else refused  # how often there was none, of this tenant or of all

    def take(self) -> bool:
        """Take one of them; False: none is left."""
        if self.limit and self.used >= self.limit:
            self._refused[0] += 1
            return False
        self.used += 1
        return True

    def give(self) -> None:
        """It is free again."""
        self.used -= 1


class SessionFeatures:
    """One client's. `admits` is asked before anything goes out; `notice` is what the client is to hear of it.

    Invariant: it has a place of `places` (`has_place`) while its backend may hold something of it, if it pins.
    """

    __slots__ = ("_kept", "_policy", "_warned", "has_place", "notice", "places", "refusal")

    def __init__(self, kept: KeptSettings, policy: FeaturePolicy, places: PinPlaces) -> None:
        self.places = places
        self.has_place = False
        self.notice = b""
        self.refusal: TenantProxyError = _NO_REFUSAL
        """What the client hears of what was not admitted."""
        self._kept = kept
        self._policy = policy
        self._warned = 0  # of what it has heard that it does not last

    @property
    def is_pinning(self) -> bool:
        """Whether the client keeps its backend for what it leaves."""
        return self._policy == "pin"

    def admits(self, found: int) -> bool:
        """Whether a text that may leave `found` (of `leftovers`, not 0) may go out."""
        left = found & ANYTHING
        if left and not self._may_leave(left):
            return False
        self.note(found)
        return True

    def may_prepare(self, found: int) -> bool:
        """Whether a text that may leave `found` may be prepared: it is told at once what it would be told when run."""
        return self._policy != "refuse" or not found & ANYTHING or self._may_leave(found & ANYTHING)

    def note(self, found: int) -> None:
        """It goes out, whatever it may leave."""
        left = found & ANYTHING
        if left:
            self._kept.is_dirty = True
        if self._policy == "pin" and (left or self.has_place):
            self._kept.left |= found
        elif self._policy == "warn" and left & ~self._warned:
            self._warned |= left
            self.notice += answers.notice(
                f"{_named(left)} do not last beyond this transaction", severity="WARNING", sqlstate="01000",
                hint=_hint(left),
            )  # fmt: skip

    def _may_leave(self, left: int) -> bool:
        if self._policy == "refuse":
            self.refusal = NotSupported(f"{_named(left)} are not available in transaction mode", hint=_hint(left))
        elif self._policy == "pin" and not (self.has_place or self.take()):
            self.refusal = no_place(self.places.limit, left)
        else:
            return True
        return False

    def take(self) -> bool:
        """Take a place for this client, which has none yet; False: none is left."""
        self.has_place = self.places.take()
        return self.has_place

    def give(self) -> None:
        """Nothing is left of what it was for."""
        if self.has_place:
            self.has_place = False
            self.places.give()


def no_place(limit: int, left: int = ANYTHING) -> TooManyPinned:
    """As many clients of the tenant keep a backend as may."""
    return TooManyPinned(
        "too many clients of this tenant keep a connection for what they left in its session",
        detail=f"max_pinned = {limit} do, and this statement would leave something: {_named(left)}",
        hint=f"{_instead(left)}, or raise max_pinned in [pg]",
        retry_after=1.0,
    )


def _named(left: int) -> str:
    return ", ".join(name for kind, name in _NAMES.items() if left & kind)


def _instead(left: int) -> str:
    return ", ".join(text for kind, text in _INSTEAD.items() if left & kind)


def _hint(left: int) -> str:
    return f'{_instead(left)}; or set session_features = "pin" in [pg], or take a user with pool_mode = "session"'
