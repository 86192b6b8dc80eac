"""What does a client hear when something fails? RFC 9457 problem+json with a request id, and nothing of a driver."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.auth.resolvers import mismatch
from tenantproxy.errors import (
    AccessDenied,
    ConnectFailed,
    TenantError,
    TenantMismatch,
    TenantMissing,
    TenantNotFound,
    TenantProxyError,
    TenantUnresolved,
    problem_json,
)

__all__ = ["GONE", "OURS", "ProblemAnswer", "answer_to", "problem_answer", "request_id"]

GONE: Final = 499
"""What is counted where the client went away before the answer."""

_ID_BYTES: Final = 16
_AT_ONCE: Final = 64
_new_ids: Final[list[str]] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_ids.clear)  # those are its parent's
_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_LOST: Final = (
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.InternalClientError,
)
OURS: Final = (TenantProxyError, *_LOST)
"""The errors that become an answer; all others are the application's."""

logger = logging.getLogger("tenantproxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemAnswer:
    """An HTTP answer: status, headers in order, body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    code: str


def request_id(given: Sequence[str]) -> str:
    """The id that the client gave in its X-Request-ID headers, if it can be logged as it is; else a new one."""
    if len(given) == 1 and _GIVEN_ID.fullmatch(given[0]):
        return given[0]
    try:
        return _new_ids.pop()
    except IndexError:  # the system is asked for many at once: to ask costs more than to answer
        many = secrets.token_hex(_ID_BYTES * _AT_ONCE)
        _new_ids.extend(many[at : at + 2 * _ID_BYTES] for at in range(2 * _ID_BYTES, len(many), 2 * _ID_BYTES))
        return many[: 2 * _ID_BYTES]


def answer_to(error: BaseException, request: str, *, mismatch_text: str = "", tenant: str = "") -> ProblemAnswer:
    """The answer to an error of tenantproxy in the request with that id; logs what the server is to blame for.

    `tenant`: whose request it is, for the log; empty: that of the context, if there is one.

    `mismatch_text` is `[resolve] mismatch_text`; empty: the error's own words.

    An unknown tenant looks like one that is not the caller's; what an error of the server says is for the log alone.
    """
    known = _known(error)
    if known.http_status >= 500:
        logger.log(
            logging.ERROR if known.http_status == 500 else logging.WARNING,
            "request %s failed: %s: %s", request, known.code, known,
            exc_info=error if known.http_status == 500 else None,
            extra={"request_id": request, "code": known.code} | ({"tenant": tenant} if tenant else {}),
        )  # fmt: skip
    body = problem_json(known, request_id=request)
    if known.http_status == 500:
        body["title"] = "internal error"
    if mismatch_text and isinstance(known, TenantMismatch):
        body["title"] = body["error"] = mismatch_text
    if known.http_status >= 500 or isinstance(known, AccessDenied | TenantError):
        body.pop("detail", None)  # it names servers, databases and other tenants, and what to configure
    headers: list[tuple[str, str]] = []
    if known.retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(known.retry_after)))))
    if known.http_status == 401:
        headers.append(("www-authenticate", "Bearer"))
    return problem_answer(known.http_status, body, *headers)


def problem_answer(status: int, problem: Mapping[str, object], *headers: tuple[str, str]) -> ProblemAnswer:
    """A problem, as `errors.problem_json` makes it, as an answer with these headers more."""
    body = json.dumps(problem).encode()
    common = (
        ("content-type", "application/problem+json"), ("cache-control", "no-store"), ("content-length", str(len(body)))
    )  # fmt: skip
    return ProblemAnswer(status=status, headers=(*common, *headers), body=body, code=str(problem["code"]))


def _known(error: BaseException) -> TenantProxyError:
    if isinstance(error, TenantNotFound):
        return mismatch()
    if isinstance(error, TenantMissing):
        return TenantUnresolved("the request names no tenant")
    if isinstance(error, TenantProxyError):
        return error
    return ConnectFailed("the connection to the database was lost", hint="try again", retry_after=1.0)
