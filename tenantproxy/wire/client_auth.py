"""Is a client who it says it is? Sans-I/O: challenges out, messages in, a verdict.

A listener sends `challenge`, calls `read` with the bytes that came until it returns a message, takes its `size` bytes
off, and calls `feed` with it. Whether to send AUTHENTICATION_OK after Verdict.PROVEN is for the listener to say, and
whether the password of Verdict.PASSWORD is good, or that of Verdict.CHECK, which takes too long to be done here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal, TypeAlias

from tenantproxy.errors import InvalidCredentials, ProtocolError
from tenantproxy.wire.answers import (
    AUTHENTICATION_CLEARTEXT,
    AUTHENTICATION_SCRAM,
    authentication_sasl,
    sasl_continue,
    sasl_final,
)
from tenantproxy.wire.frames import HEADER, PASSWORD
from tenantproxy.wire.oauth_bearer import BEARER, BearerExchange, Discovery
from tenantproxy.wire.scram import MECHANISM, MECHANISM_PLUS, ServerExchange, Verifier

__all__ = ["MAX_PASSWORD", "MAX_SASL", "ClientAuth", "Message", "Method", "Step", "Verdict", "failed"]

MAX_PASSWORD: Final = 16 * 1024  # an access token may be long
MAX_SASL: Final = 2048

Method: TypeAlias = Literal["scram-sha-256", "cleartext", "oauth"]


class Verdict(Enum):
    """Where an authentication is.

    MORE: send, and read on. PROVEN: send; it is the user. PASSWORD: nothing is known yet; here is what was sent. CHECK:
    the same, and `ClientAuth.verifier` says whether it is right; where it is not, `ClientAuth.refusal` is the error.
    """

    MORE = "more"
    PROVEN = "proven"
    PASSWORD = "password"  # noqa: S105
    CHECK = "check"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the client. `size`: how many bytes to take off."""

    payload: bytes = field(repr=False)
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """What to send now, and what is known. `password` with Verdict.PASSWORD and CHECK only."""

    verdict: Verdict
    send: bytes = field(default=b"", repr=False)
    password: str = field(default="", repr=False)


class ClientAuth:
    """One client's authentication.

    "scram-sha-256": against `verifier`, for an unknown user one that no password fits: it takes the same messages and
    the same time. `binding`: the hash of the certificate of this connection, for SCRAM-SHA-256-PLUS; empty: none.
    "cleartext": the password itself, so only where no one can listen; handed out to be checked against `verifier`, or
    without one as a token. "oauth": the same with a bearer token, of what `discovery` tells those who have none.
    `missing`: why no password can be right, for the log.
    """

    __slots__ = (
        "_bearer", "_exchange", "_is_begun", "_is_over", "_missing", "_offered", "challenge", "limit",
        "user", "verifier",
    )  # fmt: skip

    def __init__(
        self,
        method: Method,
        verifier: Verifier | None = None,
        *,
        user: bytes = b"",
        binding: bytes = b"",
        discovery: Discovery | None = None,
        missing: str = "",
    ) -> None:
        if method == "scram-sha-256" and verifier is None:
            raise ValueError("SCRAM needs a verifier")
        if method == "oauth" and discovery is None:
            raise ValueError("OAUTHBEARER needs to say where tokens are to be had")
        self._exchange = (
            ServerExchange(verifier, binding=binding) if method == "scram-sha-256" and verifier is not None else None
        )
        self._bearer = BearerExchange(discovery) if method == "oauth" and discovery is not None else None
        self.verifier: Final = verifier
        self._missing = missing
        self._is_begun = False
        self._is_over = False
        self._offered: tuple[bytes, ...] = (BEARER,) if self._bearer is not None else (MECHANISM,)
        self.challenge: Final = self._challenge(binding)
        self.limit: Final = MAX_PASSWORD if self._exchange is None else MAX_SASL  # bytes of one payload
        self.user: Final = user

    @property
    def takes_bearer(self) -> bool:
        """Whether it is "oauth"."""
        return self._bearer is not None

    def _challenge(self, binding: bytes) -> bytes:
        if self._bearer is None and self._exchange is None:
            return AUTHENTICATION_CLEARTEXT
        if self._exchange is not None and not binding:
            return AUTHENTICATION_SCRAM
        if self._exchange is not None:
            self._offered = (MECHANISM_PLUS, MECHANISM)
        return authentication_sasl(*self._offered)

    def read(self, buffer: bytes | bytearray) -> Message | None:
        """The client's next message; None: more bytes are needed. Raises ProtocolError for any other kind or length."""
        if buffer and buffer[0] != PASSWORD:
            raise ProtocolError("expected a password message", detail=f"got a message of kind {buffer[0]:#04x}")
        if len(buffer) < HEADER:
            return None
        size = int.from_bytes(buffer[1:HEADER], "big") + 1
        if not HEADER <= size <= HEADER + self.limit:
            raise ProtocolError("a password message has an impossible length", detail=f"at most {self.limit} bytes")
        return Message(bytes(buffer[HEADER:size]), size) if len(buffer) >= size else None

    def feed(self, payload: bytes) -> Step:
        """What follows from the client's next message.

        Raises ProtocolError for a malformed one, InvalidCredentials for a wrong password. Both end it.
        """
        if self._is_over:
            raise ProtocolError("a password message came after the authentication was over")
        if len(payload) > self.limit:
            raise ProtocolError("a password message is too long", detail=f"at most {self.limit} bytes")
        self._is_over = True  # until something better is known
        if self._bearer is not None:
            return self._token(self._bearer, payload)
        if self._exchange is None:
            return self._password(payload)
        if not self._is_begun:
            self._is_begun = True
            mechanism, first = self._initial(payload)
            answer = self._exchange.first(first, plus=mechanism == MECHANISM_PLUS)
            self._is_over = False
            return Step(Verdict.MORE, sasl_continue(answer))
        try:
            return Step(Verdict.PROVEN, sasl_final(self._exchange.final(payload)))
        except InvalidCredentials:
            raise self.refusal() from None

    def _password(self, payload: bytes) -> Step:
        text, nul, rest = payload.partition(b"\0")
        if not nul or rest:
            raise ProtocolError("a password message does not end where it says")
        if not text:
            raise self.refusal()
        try:
            password = text.decode()
        except UnicodeDecodeError:
            raise self.refusal() from None
        if self.verifier is None:
            return Step(Verdict.PASSWORD, password=password)
        return Step(Verdict.CHECK, password=password)

    def _token(self, bearer: BearerExchange, payload: bytes) -> Step:
        if self._is_begun:
            bearer.final(payload)
            raise self.refusal()
        self._is_begun = True
        token = bearer.first(self._initial(payload)[1])
        if token is None:
            return self.without_token("the client asked where to get a token")
        return Step(Verdict.PASSWORD, password=token)

    def without_token(self, why: str) -> Step:
        """Of "oauth", what to tell a client whose token is not accepted; its answer to that ends the exchange."""
        assert self._bearer is not None
        self._is_over, self._missing = False, why
        return Step(Verdict.MORE, sasl_continue(self._bearer.challenge))

    def refusal(self) -> InvalidCredentials:
        """What the client is told whose password is wrong."""
        return failed(self.user, self._missing) if self._missing else failed(self.user)

    def _initial(self, payload: bytes) -> tuple[bytes, bytes]:
        """SASLInitialResponse: the mechanism, and its first message with its length."""
        mechanism, nul, rest = payload.partition(b"\0")
        if not nul or len(rest) < 4:
            raise ProtocolError("a SASLInitialResponse ends too soon")
        if mechanism not in self._offered:
            raise ProtocolError("the client chose a SASL mechanism that was not offered")
        if int.from_bytes(rest[:4], "big") != len(rest) - 4:
            raise ProtocolError("the length in a SASLInitialResponse is wrong")
        return mechanism, rest[4:]


def failed(user: bytes, reason: str = "the password is wrong") -> InvalidCredentials:
    """What every client is told whose user is unknown or whose password is wrong, in PostgreSQL's words.

    `reason` is the true one, for the log.
    """
    error = InvalidCredentials(f'password authentication failed for user "{user.decode("utf-8", "replace")}"')
    error.reason = reason
    return error
