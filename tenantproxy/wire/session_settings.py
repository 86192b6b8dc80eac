"""What did a client set in its session that its next backend must have too?

The rules are those of `wire.settings`: what the server reports is in force; a plain SET counts when its transaction
commits; in any doubt the backend is given back dirty, so what is believed of a backend is never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tenantproxy.wire.commands import leaves_state
from tenantproxy.wire.frames import HEADER, QUERY
from tenantproxy.wire.leftovers import CUSTOM, HELD_CURSOR, RESETS_ALL, SETTING
from tenantproxy.wire.session_texts import SetEffect, may_be_custom, may_mean, may_set, set_effects
from tenantproxy.wire.settings import ALL, MEANING, Settings, is_tracked, meaning_of, of, with_reported, with_set

__all__ = ["KeptSettings"]


_QUERY: Final = bytes((QUERY,))  # no text that is read begins with that
_ALL: Final = SetEffect(ALL, None)
_SETS_NOTHING: Final = (b"DE", b"SA")  # DEALLOCATE, SAVEPOINT
_TAGS: Final = (b"SET", b"RESET")
_NO_SETTINGS: Final = (b"in_hot_standby",)  # what a server reports of itself, and no reset changes
_UNKNOWN: Final = SetEffect(b"?", None, is_local=True)  # something may be set, until the transaction ends
_NOTHING: Final[dict[tuple[bytes, bool], SetEffect]] = {}  # never added to: most clients are idle


class KeptSettings:
    """One client's. `now` is what its next backend gets; `start` what its startup packet asked for.

    `applied`: what is in force on the backend at the end of a transaction that left it clean. Where the client has
    reset a setting, that went back to the backend's own start.

    `meaning`: what a statement that is prepared now means by its text. Equal ones mean the same; one that is no
    Settings is equal to itself only. `baseline`: what the pool's servers report of a session as at startup, `greeted`:
    of one with `start`. Neither may change: all clients alike share them.
    """

    __slots__ = (
        "_baseline",
        "_greeted",
        "_may_be_custom",
        "_may_mean",
        "_mixed",
        "_start",
        "_unread",
        "applied",
        "asked_for",
        "has_returned",
        "is_dirty",
        "is_passing",
        "left",
        "meaning",
        "now",
        "resets_to",
        "staged",
    )

    def __init__(
        self, start: Settings, baseline: Mapping[bytes, bytes], *, greeted: Mapping[bytes, bytes] | None = None
    ) -> None:
        self.now = start
        self.meaning: object = meaning_of(start)
        self.is_passing = False  # `meaning` ends with the transaction
        self.is_dirty = False  # the session is not what it was, beyond what `now` says
        self.has_returned = False  # the backend went back to what it has at its start; the client has another one
        self.left = 0  # what may have been left in the session, or ended, since it was last known: see `leftovers`
        self._may_be_custom = False  # a setting of the text whose tags come
        self._may_mean = False  # the same: it gives texts their meaning
        self._unread: object | None = None  # `meaning` while the backend is kept, since such a one was not read
        self._mixed: bool | None = None  # the same of those whose tags cannot be told apart; None: there are no such
        self._start = start
        self._baseline = baseline
        self._greeted = baseline if greeted is None else greeted
        # Of `start`, what a backend has without it too: drivers ask for the encoding that the server has.
        told = {} if greeted is None else greeted
        self.resets_to = of(pair for pair in start if told.get(pair[0], b"") == baseline.get(pair[0]))
        self.applied = start
        # Done, and in force until the transaction ends or from then on; one for each name, so few.
        self.staged = _NOTHING
        self.asked_for: bytes | list[SetEffect | None] | None = None
        """The text whose tags come next (or the whole message of a simple query), then what of it has not come: read
        when there is one of SET or RESET."""

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is known of the session but `now`, and no answer is waited for that may tell more."""
        is_known = not (self.is_dirty or self.left or self.has_returned or self.staged or self.is_passing)
        return is_known and self.asked_for is self._unread is self._mixed is None

    @property
    def start(self) -> Settings:
        """To what a reset returns."""
        return self._start

    @property
    def may_set(self) -> bool:
        """Whether a text is not answered that may set something."""
        asked = self.asked_for
        if not isinstance(asked, bytes):
            return False
        if not may_set(_text_of(asked)):
            self.asked_for = None  # it is not looked at again
        return self.asked_for is not None

    def asked(self, sql: bytes, *, is_alone: bool) -> None:
        """A text that may set something was sent; `is_alone`: nothing else is unanswered."""
        if is_alone:
            self.asked_for = sql
        else:
            self.mix()
            self.asked_for = sql
            self.mix()
        if sql[:2].upper() not in _SETS_NOTHING:
            self._stage(_UNKNOWN)

    def mix(self) -> None:
        """Another text is sent behind the one that was asked for: which of them has the next tag is not known."""
        asked, self.asked_for = self.asked_for, None
        if asked is not None:
            is_custom = may_be_custom(_text_of(asked)) if isinstance(asked, bytes) else self._may_be_custom
            self._mixed = self._mixed or is_custom

    def tagged(self, tag: bytes) -> None:
        """A command was completed, other than the commonest."""
        if tag in _TAGS:
            effect = self._next_effect()
            if effect is None:
                self.is_dirty = True
                self.left |= SETTING | CUSTOM if self._may_be_custom else SETTING
                self._unread = object() if self._may_mean else self._unread
            else:
                self.left |= RESETS_ALL if effect.name == ALL else 0
                self.staged.pop((_UNKNOWN.name, True), None)
            self._returning(effect is None or (effect.value is None and bool(effect.name)))
            self._stage(effect or _UNKNOWN)
        elif tag == b"DISCARD ALL":
            self.is_dirty = True
            self._unread = None
            self._returning(True)
            self._stage(_ALL)
        elif tag == b"ROLLBACK":
            self._void()
        elif tag == b"COMMIT":
            self._committed()
        elif leaves_state(tag):
            self.is_dirty = True
            if tag == b"DECLARE CURSOR":
                self.left |= HELD_CURSOR

    def _returning(self, is_reset: bool) -> None:
        if is_reset and self._start != self.resets_to:
            self.has_returned = True

    def _next_effect(self) -> SetEffect | None:
        """What the statement did whose tag has come; None: it is not known."""
        asked = self.asked_for
        if asked is None:
            self._may_be_custom = self._mixed is not False
            self._may_mean = True
        elif isinstance(asked, bytes):
            self._may_be_custom = may_be_custom(_text_of(asked))
            self._may_mean = may_mean(_text_of(asked))
            asked = self.asked_for = set_effects(_text_of(asked))
        return asked.pop(0) if asked else None

    def _stage(self, effect: SetEffect) -> None:
        if effect.name == ALL:
            self.staged.clear()
        if effect.name:
            staged = self.staged = self.staged or {}
            staged.pop((effect.name, effect.is_local), None)
            staged[effect.name, effect.is_local] = effect
        self._understand()

    def _committed(self) -> None:
        """The transaction ended, though perhaps another one has begun with the same breath: COMMIT AND CHAIN."""
        if self.staged:
            self.now = self._after_this()
            self.staged = {
                key: effect for key, effect in self.staged.items() if effect.value is None and not effect.is_local
            }
            self._understand()

    def _void(self) -> None:
        """What was done in this transaction may not have been, or only up to a savepoint."""
        if self.staged:
            self.is_dirty = self.is_dirty or not all(effect.is_local for effect in self.staged.values())
            self.staged.clear()
            self._stage(_UNKNOWN)

    def unsure(self) -> None:
        """What is sent now is read in the transaction or behind it."""
        self.meaning = object()
        self.is_passing = False

    def _understand(self) -> None:
        settings = self.now
        self.is_passing = False
        for effect in self.staged.values():
            is_back = (
                effect.value is None and not effect.is_local and bool(self._start)
            )  # at the backend's, until later
            if is_back or effect is _UNKNOWN:
                self.unsure()
                return
            self.is_passing = self.is_passing or (effect.is_local and effect.name in MEANING)
            settings = with_set(settings, effect.name, effect.value, start=self._start)
        self.meaning = meaning_of(settings) if self._unread is None else self._unread

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
        if self._baseline.get(name) != value and any(each.value is None for each in self.staged.values()):
            self.is_dirty = True  # it may be what a reset went back to: then that is not what it was
        before, self.now = self.now, with_reported(self.now, name, value, baseline=self._baseline)
        if before is self.now or name not in MEANING:
            return False
        self._understand()
        return True

    def returned(self) -> list[tuple[bytes, bytes]]:
        """What its next backend will report of the settings that went back: to what the client has at its start."""
        self.has_returned = False
        reset = {effect.name for effect in self.staged.values() if effect.value is None and not effect.is_local}
        wanted = dict(self._after_this())
        return [
            (name, self._greeted[name])
            for name, value in self._start
            if (name in reset or ALL in reset)
            and wanted.get(name) == value
            and self._greeted.get(name, b"") != self._baseline.get(name, b"")
        ]

    def _after_this(self) -> Settings:
        """`now`, when the transaction has committed."""
        return self._after(self._start)

    def _after(self, start: Settings) -> Settings:
        settings = self.now
        for effect in self.staged.values():
            if not effect.is_local:
                settings = with_set(settings, effect.name, effect.value, start=start)
        return settings

    def ended(self, *, is_kept: bool = False) -> bool:
        """The transaction ended: returns whether the backend is dirty; if not, its session is `applied`.

        `is_kept`: by the client, so what was set there is still in force.
        """
        if not (self.staged or self.is_dirty):  # most
            self.applied = self.now
            return False
        # A reset is to what the client wished at its start, and the backend went back to what it had at its own.
        self.now, self.applied = self._after_this(), self._after(self.resets_to)
        is_dirty, self.is_dirty = self.is_dirty, False
        self.staged.clear()
        if not is_kept:
            self._unread = None
        self._understand()
        self.asked_for = self._mixed = None
        self.left = 0
        return is_dirty


def _text_of(asked: bytes) -> bytes:
    return asked[HEADER:-1] if asked[:1] == _QUERY else asked
