"""Does each failed connect become the right error, and tell nothing that it must not?"""

from __future__ import annotations

import errno
import socket

import asyncpg
import pytest

from tenantproxy.connect.failures import classify, describe
from tenantproxy.errors import (
    BudgetExhausted,
    ConnectFailed,
    IsolationError,
    PoolClosed,
    PoolError,
    ProtocolError,
    TenantProxyError,
)
from tenantproxy.model import PoolKey
from tenantproxy.pools.backoff import Failure

KEY = PoolKey(server="one", database="shared")
SECRET = "postgresql://app:hunter2@10.0.0.7/shared"


def answer(state: str) -> asyncpg.PostgresError:
    """What asyncpg raises for an answer with this SQLSTATE."""
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": state, "M": SECRET, "S": "FATAL"})
    return error


def case_id(case: object) -> str:
    return describe(case) if isinstance(case, BaseException) else str(getattr(case, "__name__", case))


CASES: list[tuple[BaseException, type[TenantProxyError], Failure, str]] = [
    (ConnectionRefusedError(111, SECRET), ConnectFailed, "refused", "cannot be reached"),
    (ConnectionResetError(SECRET), ConnectFailed, "refused", "cannot be reached"),
    (socket.gaierror(-2, SECRET), ConnectFailed, "refused", "cannot be resolved"),
    (OSError(113, SECRET), ConnectFailed, "refused", "cannot be reached"),
    (asyncpg.InterfaceError(SECRET), ConnectFailed, "refused", "cannot be reached"),
    (asyncpg.InternalClientError(SECRET), ConnectFailed, "refused", "cannot be reached"),
    (answer("08006"), ConnectFailed, "refused", "cannot be reached"),
    (answer("08003"), ConnectFailed, "refused", "cannot be reached"),
    (TimeoutError(SECRET), ConnectFailed, "busy", "did not answer in time"),
    (answer("57P03"), ConnectFailed, "busy", "starting up"),
    (answer("57P02"), ConnectFailed, "busy", "has crashed"),
    (answer("57P01"), ConnectFailed, "busy", "shutting down"),
    (answer("53200"), ConnectFailed, "busy", "out of memory"),
    (answer("53300"), BudgetExhausted, "full", "no connection left"),
    (answer("28P01"), ConnectFailed, "denied", "refused our password"),
    (answer("28000"), ConnectFailed, "denied", "refused our role"),
    (answer("3D000"), ConnectFailed, "denied", "database does not exist"),
    (answer("42501"), ConnectFailed, "denied", "may not connect"),
    (answer("XX000"), ConnectFailed, "denied", "refused the connection"),
    (ValueError(SECRET), ConnectFailed, "denied", "opening a connection failed"),
]


@pytest.mark.parametrize(("error", "kind", "failure", "words"), CASES, ids=case_id)
def test_a_failed_connect_is_told_by_its_kind_and_never_by_the_drivers_text(
    error: BaseException, kind: type[PoolError], failure: Failure, words: str
) -> None:
    ours, why = classify(error, KEY)
    assert (type(ours), why) == (kind, failure)
    assert words in ours.message
    assert "server 'one', database 'shared'" in (ours.detail or "")
    assert ours.hint
    assert ours.retry_after
    for told in (str(ours), repr(ours), describe(error)):
        assert "hunter2" not in told
        assert "10.0.0.7" not in told


@pytest.mark.parametrize("state", ["28P01", "57P03", "53300", "3D000"])
def test_the_sqlstate_of_an_answer_is_told(state: str) -> None:
    assert f"SQLSTATE {state}" in str(classify(answer(state), KEY)[0])
    assert describe(answer(state)).endswith(state)


@pytest.mark.parametrize("state", ["28P01", "28000", "3D000", "42501", "55000"])
def test_with_what_a_server_refused_us_is_known_also_to_who_hears_of_it_later(state: str) -> None:
    error, _ = classify(answer(state), KEY)
    assert isinstance(error, ConnectFailed)
    assert (error.refusal, error.again().refusal) == (state, state)


def test_what_is_wrong_with_a_server_is_not_told_as_the_clients_fault() -> None:
    error, failure = classify(ProtocolError("the server asked twice", detail="of a login", hint="see to it"), KEY)
    assert (type(error), failure) == (ConnectFailed, "denied")
    assert (error.message, error.detail, error.hint) == ("the server asked twice", "of a login", "see to it")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_that_we_have_no_more_descriptors_does_not_mean_that_the_server_is_away(number: int) -> None:
    error, failure = classify(OSError(number, SECRET), KEY)
    assert (type(error), failure) == (BudgetExhausted, "busy")
    assert "file descriptors" in (error.hint or "")
    assert error.retry_after


@pytest.mark.parametrize("error", [IsolationError("the role is a superuser"), PoolClosed("the router is closing")])
def test_our_own_refusals_are_passed_on_and_final(error: TenantProxyError) -> None:
    assert classify(error, KEY) == (error, "denied")
