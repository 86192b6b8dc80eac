"""What did a client send that its server has not answered yet? Outstanding answers, a COPY, and how sure that is.

Each Query, Sync and FunctionCall is answered by one ReadyForQuery, each Parse and Close by one acknowledgement, in
order. A backend on which nothing is outstanding, that has said ReadyForQuery `I`, may serve another client; one whose
pipeline is DOUBTFUL may never.

When PostgreSQL sends ReadyForQuery (PostgresMain and SocketBackend in src/backend/tcop/postgres.c, 15 to 18 alike; each
line is tried on real servers in tests/integration/test_when_ready.py):

- after start-up; after each Query and each FunctionCall, also a failed one; for each Sync, also one whose commit fails;
- not for Parse, Bind, Describe, Execute, Close and Flush, also when they fail: then everything is skipped up to the
  next Sync, a Query and a FunctionCall too;
- while a COPY reads (CopyGetData in copyfromparse.c) Sync and Flush are part of it, and not answered. Any other message
  than those of COPY ends the connection;
- outside of a COPY its messages are ignored. But each message that is read lets a due `statement_timeout` strike, which
  Parse and Bind have started and the end of an Execute, Sync, Query or an error stops. If it strikes at CopyData,
  CopyDone or CopyFail, which belong to neither protocol, there is an ErrorResponse *and* a ReadyForQuery, though no
  Sync was sent; the Sync that follows gets another one.

- a Query or FunctionCall behind messages without a Sync is answered as any, unless they fail: then it is skipped. A
  Query's error and theirs look alike, so a mark goes out ahead of the Query, a Close of our own: only where that is
  answered has the Query been read;
- behind an Execute it is answered too. But PostgreSQL 18 says `T` then, and at
  the Sync that follows `I`, while the transaction is open: its next statement fails ("unexpected state STARTED").

So a message of COPY outside of one that is known is in doubt while extended messages are open, and so is an extended
message inside a COPY whose end has not been read.

No call takes longer because more is outstanding.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.errors import ProtocolError
from tenantproxy.wire.frames import (
    CLOSE_COMPLETE,
    COPY_DATA,
    IDLE,
    IN_FAILED_TRANSACTION,
    PARAMETER_DESCRIPTION,
    PARSE_COMPLETE,
)
from tenantproxy.wire.states import Table

__all__ = ["CERTAINTY", "COPY", "MAX_OUTSTANDING", "Certainty", "Copy", "Pipeline"]

MAX_OUTSTANDING: Final = 4096
"""Answers that may be outstanding before a client is not read any further. More than a server holds back unless it is
asked to flush: 8 kB, and the shortest answer has 5 bytes."""


class Copy(StrEnum):
    """What the server does with messages of COPY."""

    NONE = "none"  # it ignores them
    IN = "in"  # it reads them, and takes neither Sync nor Flush for what they are
    OUT = "out"  # it sends some
    ENDED_AHEAD = "ended_ahead"  # the client has sent the end of one before the server said that it reads


class CopyEvent(StrEnum):
    """What changes that."""

    BEGAN = "CopyInResponse"
    BEGAN_OUT = "CopyOutResponse"
    END_SENT = "CopyDone or CopyFail sent"
    LAST_END_READ = "CopyInResponse, whose end was the last sent"
    FINISHED = "COPY completed"
    OVER = "ErrorResponse, or all answered"


COPY: Final[Table[Copy, CopyEvent]] = {
    (Copy.NONE, CopyEvent.BEGAN): Copy.IN,
    (Copy.NONE, CopyEvent.BEGAN_OUT): Copy.OUT,
    (Copy.NONE, CopyEvent.END_SENT): Copy.ENDED_AHEAD,
    (Copy.NONE, CopyEvent.FINISHED): Copy.NONE,
    (Copy.NONE, CopyEvent.OVER): Copy.NONE,
    (Copy.IN, CopyEvent.BEGAN): Copy.IN,
    (Copy.IN, CopyEvent.BEGAN_OUT): Copy.IN,
    (Copy.IN, CopyEvent.END_SENT): Copy.NONE,
    (Copy.IN, CopyEvent.FINISHED): Copy.IN,
    (Copy.IN, CopyEvent.OVER): Copy.NONE,
    (Copy.OUT, CopyEvent.BEGAN): Copy.IN,
    (Copy.OUT, CopyEvent.BEGAN_OUT): Copy.OUT,
    (Copy.OUT, CopyEvent.END_SENT): Copy.ENDED_AHEAD,
    (Copy.OUT, CopyEvent.FINISHED): Copy.NONE,
    (Copy.OUT, CopyEvent.OVER): Copy.NONE,
    (Copy.ENDED_AHEAD, CopyEvent.BEGAN): Copy.ENDED_AHEAD,
    (Copy.ENDED_AHEAD, CopyEvent.LAST_END_READ): Copy.NONE,
    (Copy.ENDED_AHEAD, CopyEvent.BEGAN_OUT): Copy.ENDED_AHEAD,
    (Copy.ENDED_AHEAD, CopyEvent.END_SENT): Copy.ENDED_AHEAD,
    (Copy.ENDED_AHEAD, CopyEvent.FINISHED): Copy.ENDED_AHEAD,
    (Copy.ENDED_AHEAD, CopyEvent.OVER): Copy.NONE,
}


class Certainty(StrEnum):
    """How sure it is what is outstanding."""

    KNOWN = "known"
    UNSURE = "unsure"  # a Sync may have been read as part of a COPY, or a Query skipped: what comes next tells
    UNFINISHED = "unfinished"  # known, but the server may say that it is idle in a transaction
    DOUBTFUL = "doubtful"  # that can never be known again


class CertaintyEvent(StrEnum):
    """What changes that."""

    SYNC_IN_COPY = "Sync inside a COPY"
    SKIPPED_OR_FAILED = "ErrorResponse before a Query behind open messages"
    TOLD = "ReadyForQuery, or COPY completed"
    NOT_TOLD = "ErrorResponse inside a COPY, or more sent"
    AMBIGUOUS = "a message that may be answered, or not"
    LEFT_OPEN = "ReadyForQuery T to a Query behind open messages"


_DOUBTED: Final[dict[tuple[Certainty, CertaintyEvent], Certainty]] = {
    (Certainty.DOUBTFUL, event): Certainty.DOUBTFUL for event in CertaintyEvent
}
CERTAINTY: Final[Table[Certainty, CertaintyEvent]] = {
    (Certainty.KNOWN, CertaintyEvent.SYNC_IN_COPY): Certainty.UNSURE,
    (Certainty.KNOWN, CertaintyEvent.SKIPPED_OR_FAILED): Certainty.UNSURE,
    (Certainty.KNOWN, CertaintyEvent.AMBIGUOUS): Certainty.DOUBTFUL,
    (Certainty.UNSURE, CertaintyEvent.SYNC_IN_COPY): Certainty.UNSURE,
    (Certainty.UNSURE, CertaintyEvent.SKIPPED_OR_FAILED): Certainty.UNSURE,
    (Certainty.UNSURE, CertaintyEvent.TOLD): Certainty.KNOWN,
    (Certainty.UNSURE, CertaintyEvent.NOT_TOLD): Certainty.DOUBTFUL,
    (Certainty.UNSURE, CertaintyEvent.AMBIGUOUS): Certainty.DOUBTFUL,
    (Certainty.KNOWN, CertaintyEvent.LEFT_OPEN): Certainty.UNFINISHED,
    (Certainty.UNSURE, CertaintyEvent.LEFT_OPEN): Certainty.DOUBTFUL,
    (Certainty.UNFINISHED, CertaintyEvent.SYNC_IN_COPY): Certainty.DOUBTFUL,
    (Certainty.UNFINISHED, CertaintyEvent.SKIPPED_OR_FAILED): Certainty.DOUBTFUL,
    (Certainty.UNFINISHED, CertaintyEvent.AMBIGUOUS): Certainty.DOUBTFUL,
    (Certainty.UNFINISHED, CertaintyEvent.LEFT_OPEN): Certainty.UNFINISHED,
} | _DOUBTED

# Outstanding answers, one byte each. The first four are ReadyForQuery.
QUERY: Final = 1
SYNC: Final = 2
BEHIND: Final = 3  # for a Query or FunctionCall behind open messages: their error skips it
MARKED: Final = 4  # the same, behind an OWN_CLOSED that tells whether it was skipped
PARSED_UNNAMED: Final = 5
OWN_PARSED_UNNAMED: Final = 6  # "own": asked for by us, the client sees nothing of it
OWN_PARSED: Final = 7
CLOSED: Final = 8
OWN_CLOSED: Final = 9
PARSED: Final = 10  # of this and the next two `prepared` knows more
CLOSED_KNOWN: Final = 11
DESCRIBED: Final = 12
REFUSED: Final = 13  # by an error, whatever happens
REFUSED_BY_US: Final = 14  # the same, and `prepared` knows what the client hears
_KINDS: Final = bytes(
    (
        *(0, 0, 0, 0, 0),
        *(PARSE_COMPLETE, PARSE_COMPLETE, PARSE_COMPLETE, CLOSE_COMPLETE, CLOSE_COMPLETE),
        *(PARSE_COMPLETE, CLOSE_COMPLETE, PARAMETER_DESCRIPTION, 0, 0),
    )
)
_IS_BEHIND: Final = bytes((BEHIND,))
_READ: Final = 4096  # answers that have come and still take a byte

# Members of an enumeration are slow to look up.
_KNOWN, _UNSURE, _UNFINISHED, _DOUBTFUL = Certainty
_NONE, _IN, _OUT, _ENDED_AHEAD = Copy


class Pipeline:
    """One client's messages under way. Changed by what is sent (`RequestStream`) and answered (`ResponseStream`).

    Invariant: `_answers` from `_head` on are outstanding. `_acknowledgements` counts those that are no ReadyForQuery,
    `_behinds` the BEHIND and MARKED.
    """

    __slots__ = (
        "_acknowledgements",
        "_answers",
        "_behinds",
        "_ends_ahead",
        "_head",
        "_unsure",
        "certainty",
        "copy",
        "has_executed",
        "is_lost",
        "is_open",
        "is_skipping",
        "outstanding",
        "segment",
        "status",
    )

    def __init__(self) -> None:
        self.certainty = Certainty.KNOWN
        self.copy = Copy.NONE
        self.is_open = False  # messages were sent that no Sync has followed yet: their answers are not counted
        self.has_executed = False  # an Execute is among what is open: it may end a transaction
        self.is_skipping = False  # an error has come for what is open: the server reads nothing until Sync
        self.is_lost = False  # what the client is answered from now on cannot be known
        self.segment = 0  # how many were sent
        self.status = IDLE  # as the last ReadyForQuery said
        self.outstanding = 0  # how many answers are
        self._answers = bytearray()
        self._head = 0
        self._acknowledgements = self._behinds = 0
        self._unsure = 0  # Syncs that the server read as part of a COPY, unless that had failed by then
        self._ends_ahead = 0

    def __repr__(self) -> str:
        flags = [name for name in ("is_open", "is_skipping", "is_lost") if getattr(self, name)]
        return f"<Pipeline {self.certainty}, copy {self.copy}, {self.outstanding} outstanding {' '.join(flags)}>"

    @property
    def is_quiet(self) -> bool:
        """Whether nothing that was sent is unanswered."""
        return not (self.outstanding or self.is_open)

    @property
    def will_be_idle(self) -> bool:
        """Whether something is outstanding, and all of it will surely come without another message of the client's."""
        return self.outstanding > 0 and not self.is_open and self.certainty is _KNOWN and self.copy is not _IN

    @property
    def is_sound(self) -> bool:
        """Whether the server was surely in no failed transaction when the open segment, or the next one, began."""
        is_known = self.certainty is _KNOWN and self.answered_segments == self.segment
        return is_known and self.status != IN_FAILED_TRANSACTION

    @property
    def has_surely_failed(self) -> bool:
        """Whether what is sent next is read in a transaction that has failed."""
        is_known = self.certainty is _KNOWN and self.answered_segments == self.segment
        return is_known and self.status == IN_FAILED_TRANSACTION and not self.has_executed

    @property
    def is_at_rest(self) -> bool:
        """Whether a new one would be in the same state."""
        is_known = self.certainty is _KNOWN and self.copy is _NONE and not (self.is_skipping or self.is_lost)
        return is_known and self.is_quiet and self.status == IDLE

    @property
    def answered_segments(self) -> int:
        """How many of those sent are answered, where that is known."""
        return self.segment - (self.outstanding - self._acknowledgements)

    @property
    def is_doubtful(self) -> bool:
        """Whether it can never be known again what is outstanding."""
        return self.certainty is _DOUBTFUL

    @property
    def will_be_told(self) -> bool:
        """Whether the answers on their way tell what is outstanding, though it is unsure now."""
        return self._unsure > 0 and self.outstanding > 0 and not self._behinds and self.copy is not _IN

    @property
    def owes_one_sync(self) -> bool:
        """Whether one Sync and nothing else is outstanding."""
        return self.outstanding == 1 and not self.is_open and self._answers[self._head] == SYNC

    @property
    def owes_a_query(self) -> bool:
        """Whether what is answered now is a Query or FunctionCall."""
        return self.outstanding > 0 and self._answers[self._head] in (QUERY, BEHIND, MARKED)

    def doubt(self) -> None:
        """What is outstanding can never be known again."""
        self._certainty(CertaintyEvent.AMBIGUOUS)

    def _certainty(self, event: CertaintyEvent) -> None:
        self.certainty = CERTAINTY[self.certainty, event]

    def _copy(self, event: CopyEvent) -> None:
        self.copy = COPY[self.copy, event]

    # --- sent --------------------------------------------------------------------------------------------------------
    def queried(self, *, is_marked: bool = False) -> None:
        """A Query or a FunctionCall was sent; `is_marked`: behind an OWN_CLOSED, as messages are open."""
        if self.certainty is _UNSURE:
            self._more_sent()
        self.segment += 1
        self.outstanding += 1
        self.has_executed = False
        if self.is_open:
            self.is_open = False
            self._behinds += 1
            self._answers.append(MARKED if is_marked else BEHIND)
        else:
            self._answers.append(QUERY)

    def synced(self) -> None:
        """A Sync was sent."""
        if self.copy is _IN:
            self._unsure += 1
            self._certainty(CertaintyEvent.SYNC_IN_COPY)
            return
        if self.certainty is _UNSURE:
            self._more_sent()
        self.segment += 1
        self.is_open = self.is_skipping = self.has_executed = False
        self.outstanding += 1
        self._answers.append(SYNC)

    def _more_sent(self) -> None:
        if self._behinds:  # it is not known yet whether it was skipped
            self._certainty(CertaintyEvent.NOT_TOLD)

    def opened(self) -> None:
        """Parse, Bind, Describe, Execute or Close was sent."""
        self.is_open = True
        if self.copy is _IN:
            self.doubt()  # the COPY has failed, which we have not read: a statement_timeout may run now

    def executed(self) -> None:
        """Execute was sent."""
        self.has_executed = True
        self.opened()

    def expect(self, answer: int) -> None:
        """A Parse or Close was sent, by the client or by us."""
        self._answers.append(answer)
        self.outstanding += 1
        self._acknowledgements += 1

    def copies(self, kind: int) -> bool:
        """CopyData, CopyDone or CopyFail are to be sent; False: the server would ignore them, so leave them out.

        Some send the COPY, its data and the end in one go; those whose COPY failed go on until they read of it.
        """
        is_end = kind != COPY_DATA
        if self.copy is _IN:
            if is_end:
                self._copy(CopyEvent.END_SENT)
            return True
        if self.certainty is not _DOUBTFUL and (self.is_skipping or self.is_quiet):
            return False
        if self.is_open:
            self.doubt()  # a statement_timeout may strike here, and be answered by a ReadyForQuery
        if is_end:
            self._ends_ahead += 1
            self._copy(CopyEvent.END_SENT)
            readies = self.outstanding - self._acknowledgements
            if readies > 1 or (readies and self._answers.find(SYNC, self._head) >= 0):
                self.doubt()  # what was sent before it may be read as part of the COPY, or not
        return True

    # --- answered ----------------------------------------------------------------------------------------------------
    def acknowledged(self, kind: int) -> int:
        """For ParseComplete and CloseComplete: the answer that it is.

        Raises ProtocolError for one that nothing asked for.
        """
        if not self.outstanding or _KINDS[answer := self._answers[self._head]] != kind:
            raise ProtocolError("the server answered what it was not asked", detail=f"kind {kind:#04x}")
        self._acknowledgements -= 1
        self._take(1)
        return answer

    def _take(self, count: int) -> None:
        """So many have come."""
        self._head += count
        self.outstanding -= count
        if not self.outstanding:
            self._answers.clear()
            self._head = 0
        elif self._head >= _READ:
            del self._answers[: self._head]
            self._head = 0

    def ready(self) -> bytes:
        """For ReadyForQuery: the acknowledgements that will not come any more, for an error has skipped them.

        And at last BEHIND, where it is the answer to that: see `left_open`.
        Raises ProtocolError when no ReadyForQuery was due.
        """
        skipped = self._skipped() if self._acknowledgements else b""
        if not self.outstanding:
            if self.certainty is not _DOUBTFUL:
                raise ProtocolError("the server was ready once more than it was asked")
            return skipped
        if self._behinds and self._answers[self._head] in (BEHIND, MARKED):
            self._behinds -= 1
            if self.certainty is _UNSURE and not (self._behinds or self._unsure):
                self._certainty(CertaintyEvent.TOLD)
            skipped += _IS_BEHIND
        left = self.outstanding - 1
        if left:
            self.outstanding = left
            self._head += 1
            if self._head >= _READ:
                del self._answers[: self._head]
                self._head = 0
            return skipped
        self.outstanding = self._head = 0
        self._answers.clear()
        if self.copy is _ENDED_AHEAD and not self.is_open:
            self._ends_ahead = 0
            self._copy(CopyEvent.OVER)
        return skipped

    def left_open(self) -> None:
        """A Query behind open messages was answered by the first ReadyForQuery that says that a transaction is open."""
        self._certainty(CertaintyEvent.LEFT_OPEN)

    def _skipped(self) -> bytes:
        """Take out the acknowledgements before the next ReadyForQuery, or all when none is due."""
        answers, at, size = self._answers, self._head, len(self._answers)
        while at < size and answers[at] > MARKED:
            at += 1
        skipped = bytes(answers[self._head : at])
        if skipped:
            self._acknowledgements -= len(skipped)
            self._take(len(skipped))
        return skipped

    def _skipped_to_sync(self) -> bytes:
        """Take out all that is not answered up to the next Sync, queries too. Returns the acknowledgements of it."""
        end = self._answers.find(SYNC, self._head)
        void = bytes(self._answers[self._head : end if end >= 0 else len(self._answers)])
        skipped = bytes(answer for answer in void if answer > MARKED)
        self._acknowledgements -= len(skipped)
        self._behinds -= void.count(BEHIND) + void.count(MARKED)
        self._take(len(void))
        self.is_open = self.is_open or end < 0
        return skipped

    def failed(self) -> bytes:
        """For ErrorResponse: the acknowledgements that will not come any more. `is_lost` may be set."""
        if self.copy is not _ENDED_AHEAD or self.outstanding < 2:  # no COPY has begun: its end is ignored
            self._ends_ahead = 0
            self._copy(CopyEvent.OVER)
        if self._unsure:  # it may have come before such a Sync was read: then that is answered
            self._unsure = 0
            self.doubt()
        skipped = self._skipped() if self._acknowledgements else b""
        if skipped and self.outstanding and self._answers[self._head] == MARKED:
            skipped += self._skipped_to_sync()
        if not self.outstanding:
            self.is_skipping = self.is_open and self.certainty is _KNOWN
        elif self._answers[self._head] == BEHIND:
            if self.outstanding - self._acknowledgements == 1:  # a ReadyForQuery tells that it was the query itself
                self._certainty(CertaintyEvent.SKIPPED_OR_FAILED)
            else:
                self.doubt()
                self.is_lost = True
        return skipped

    def copy_began(self) -> None:
        """For CopyInResponse. A Sync that was sent with the COPY is read as part of it, and never answered."""
        if self._ends_ahead:
            self._ends_ahead -= 1
            self._copy(CopyEvent.BEGAN if self._ends_ahead else CopyEvent.LAST_END_READ)
            return
        self._copy(CopyEvent.BEGAN)
        outstanding = self.outstanding
        if outstanding and self._answers.count(SYNC, self._head) == outstanding:
            self._unsure += outstanding
            self._certainty(CertaintyEvent.SYNC_IN_COPY)
            self._take(outstanding)
            self.is_open = True
        elif outstanding > 1:
            self.doubt()  # which of them the server read before it began is not known

    def copy_out_began(self) -> None:
        """For CopyOutResponse."""
        self._copy(CopyEvent.BEGAN_OUT)

    def copied(self) -> None:
        """For the end of a COPY: all that was sent before it has been read."""
        self._copy(CopyEvent.FINISHED)
        if self._unsure:
            self._unsure = 0
            if not self._behinds:
                self._certainty(CertaintyEvent.TOLD)

    # --- another backend ---------------------------------------------------------------------------------------------
    def abandon(self) -> None:
        """The backend is given up: nothing is outstanding of it any more."""
        self._answers.clear()
        self.outstanding = self._head = self._acknowledgements = self._behinds = 0
        self._unsure = self._ends_ahead = 0
        self.is_open = self.is_skipping = self.is_lost = self.has_executed = False
        self.copy, self.certainty = _NONE, _KNOWN
