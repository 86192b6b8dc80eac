"""What did a client set in its session that its next backend must have too?

The rules are those of `wire.settings`: what the server reports is in force; a plain SET counts when its transaction
commits; in any doubt the backend is given back dirty, so what is believed of a backend is never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantproxy.wire.commands import leaves_state
from tenantproxy.wire.session_texts import SetEffect, set_effects
from tenantproxy.wire.settings import ALL, MEANING, Settings, is_tracked, meaning_of, with_reported, with_set

__all__ = ["KeptSettings"]


_DEALLOCATE: Final = (b"DE", b"De", b"de")  # sets nothing
_TAGS: Final = (b"SET", b"RESET")
_NO_SETTINGS: Final = (b"in_hot_standby",)  # what a server reports of itself, and no reset changes
_UNKNOWN: Final = SetEffect(b"?", None, is_local=True)  # something may be set, until the transaction ends


class KeptSettings:
    """One client's. `now` is what its next backend gets; `start` what its startup packet asked for.

    `meaning`: what a statement that is prepared now means by its text. Equal ones mean the same; one that is no
    Settings is equal to itself only. `baseline`: what the pool's servers report of a session as at startup.
    """

    __slots__ = ("_baseline", "_staged", "_start", "asked_for", "is_dirty", "meaning", "now")

    def __init__(self, start: Settings, baseline: Mapping[bytes, bytes]) -> None:
        self.now = start
        self.meaning: object = meaning_of(start)
        self.is_dirty = False  # the session is not what it was, beyond what `now` says
        self._start = start
        self._baseline = baseline
        # Done, and in force until the transaction ends or from then on; one for each name, so few.
        self._staged: dict[tuple[bytes, bool], SetEffect] = {}
        self.asked_for: bytes | list[SetEffect | None] | None = None
        """The text whose tags come next, then what of it has not come: read when there is one of SET or RESET."""

    def asked(self, sql: bytes, *, is_alone: bool) -> None:
        """A text that may set something was sent; `is_alone`: nothing else is unanswered."""
        self.asked_for = sql if is_alone else None
        if sql[:2] not in _DEALLOCATE:
            self._stage(_UNKNOWN)

    def tagged(self, tag: bytes) -> None:
        """A command was completed, other than the commonest."""
        if tag in _TAGS:
            effect = self._next_effect()
            if effect is None:
                self.is_dirty = True
                effect = _UNKNOWN
            else:
                self._staged.pop((_UNKNOWN.name, True), None)
            self._stage(effect)
        elif tag == b"ROLLBACK":
            self._void()
        elif leaves_state(tag):
            self.is_dirty = True

    def _next_effect(self) -> SetEffect | None:
        """What the statement did whose tag has come; None: it is not known."""
        asked = self.asked_for
        if isinstance(asked, bytes):
            asked = self.asked_for = set_effects(asked)
        return asked.pop(0) if asked else None

    def _stage(self, effect: SetEffect) -> None:
        if effect.name == ALL:
            self._staged.clear()
        if effect.name:
            self._staged.pop((effect.name, effect.is_local), None)
            self._staged[effect.name, effect.is_local] = effect
        self._understand()

    def _void(self) -> None:
        """What was done in this transaction may not have been, or only up to a savepoint."""
        if self._staged:
            self.is_dirty = self.is_dirty or not all(effect.is_local for effect in self._staged.values())
            self._staged.clear()
            self._stage(_UNKNOWN)

    def _understand(self) -> None:
        settings = self.now
        for effect in self._staged.values():
            if effect is _UNKNOWN:
                self.meaning = object()
                return
            settings = with_set(settings, effect.name, effect.value, start=self._start)
        self.meaning = meaning_of(settings)

    def failed(self) -> None:
        """The server said an error."""
        self.asked_for = None
        self._void()

    def reported(self, name: bytes, value: bytes) -> bool:
        """A ParameterStatus came. Whether texts that were parsed just before it may mean something else.

        What does not go along with the client must not stay behind for the next one.
        """
        if not is_tracked(name, value) and name not in _NO_SETTINGS:
            self.is_dirty = True
        before, self.now = self.now, with_reported(self.now, name, value, baseline=self._baseline)
        if before is self.now or name not in MEANING:
            return False
        self._understand()
        return True

    def ended(self) -> bool:
        """The transaction ended: returns whether the backend is dirty; if not, its session is `now`."""
        if not (self._staged or self.is_dirty):  # most
            return False
        for effect in self._staged.values():
            if effect.is_local:
                continue
            self.now = with_set(self.now, effect.name, effect.value, start=self._start)
            if effect.value is None:  # to what the client wished at its start, not to what the backend went back to
                self.is_dirty = True
        self._staged.clear()
        self._understand()
        self.asked_for = None
        is_dirty, self.is_dirty = self.is_dirty, False
        return is_dirty
