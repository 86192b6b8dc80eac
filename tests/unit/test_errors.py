"""Does every error look outside as it was promised, and tell enough to act on?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tenantproxy import errors
from tenantproxy.errors import (
    ConfigurationError,
    PoolTimeout,
    Problem,
    TenantProxyError,
    error_response,
    problem_json,
)

TABLE: dict[str, tuple[int, str, str, bool]] = {
    "TenantProxyError": (500, "XX000", "internal_error", False),
    "ConfigurationError": (500, "XX000", "configuration_error", False),
    "AuthError": (401, "28000", "unauthorized", False),
    "TenantUnresolved": (400, "08P01", "tenant_unresolved", False),
    "TenantMissing": (400, "08P01", "tenant_missing", False),
    "InvalidCredentials": (401, "28P01", "invalid_credentials", False),
    "TokenExpired": (401, "28000", "token_expired", False),
    "AccessDenied": (403, "42501", "access_denied", False),
    "DocumentRefused": (403, "42501", "document_refused", False),
    "TenantMismatch": (403, "42501", "tenant_mismatch", False),
    "TooManyAttempts": (429, "53400", "too_many_attempts", True),
    "LoginUnavailable": (503, "08006", "login_unavailable", True),
    "TenantError": (404, "3D000", "tenant_error", False),
    "TenantNotFound": (404, "3D000", "tenant_not_found", False),
    "TenantPaused": (503, "57P03", "tenant_paused", True),
    "TenantSuspended": (403, "28000", "tenant_suspended", False),
    "RegistryUnavailable": (503, "08006", "registry_unavailable", True),
    "DocumentsUnavailable": (503, "08006", "documents_unavailable", True),
    "PoolError": (503, "53300", "pool_error", True),
    "PoolTimeout": (503, "53300", "pool_timeout", True),
    "TooManyClients": (503, "53300", "too_many_clients", True),
    "OutOfMemory": (503, "53200", "out_of_memory", True),
    "StatementTooLong": (400, "54000", "statement_too_long", False),
    "QueryTimeout": (504, "57014", "query_timeout", False),
    "IdleSession": (503, "57P05", "idle_session", False),
    "PoolFull": (503, "53300", "pool_full", True),
    "TooManyPinned": (503, "53300", "too_many_pinned", True),
    "IdlePinned": (503, "57P05", "idle_pinned", True),
    "BudgetExhausted": (503, "53300", "budget_exhausted", True),
    "PoolClosed": (503, "57P01", "pool_closed", True),
    "LeaseExpired": (503, "57P01", "lease_expired", True),
    "TenantEnded": (403, "57P01", "tenant_ended", False),
    "ServerMoved": (503, "57P01", "server_moved", True),
    "IdleTransaction": (503, "25P03", "idle_in_transaction", True),
    "ConnectFailed": (503, "08001", "connect_failed", True),
    "IsolationError": (500, "XX000", "isolation_error", False),
    "UnprotectedRelations": (500, "XX000", "unprotected_relations", False),
    "ProtocolError": (400, "08P01", "protocol_error", False),
    "InvalidSetting": (400, "22023", "invalid_setting", False),
    "NotSupported": (400, "0A000", "not_supported", False),
}

KINDS = {
    name: kind
    for name in errors.__all__
    if isinstance(kind := getattr(errors, name), type) and issubclass(kind, TenantProxyError)
}


def made(kind: type[TenantProxyError]) -> TenantProxyError:
    if kind is ConfigurationError:
        return ConfigurationError([Problem(key="a.b", problem="is wrong", fix="correct it")])
    return kind("no", detail="limit = 3", hint="raise it", retry_after=1.5)


def test_every_error_is_in_the_table() -> None:
    assert set(KINDS) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_an_error_has_the_outward_form_that_was_promised(name: str) -> None:
    kind = KINDS[name]
    assert (kind.http_status, kind.sqlstate, kind.code, kind.retryable) == TABLE[name]


def test_codes_are_unique_and_states_have_five_characters() -> None:
    assert len({kind.code for kind in KINDS.values()}) == len(KINDS)
    assert all(re.fullmatch("[0-9A-Z]{5}", kind.sqlstate) for kind in KINDS.values())


def test_the_tree_at_the_head_of_the_module_tells_the_truth() -> None:
    text = Path(errors.__file__).read_text().split('"""')[1]
    for name, status, state in re.findall(r"(\w+) (\d{3}) ([0-9A-Z]{5})", text):
        assert (KINDS[name].http_status, KINDS[name].sqlstate) == (int(status), state), name
    assert {name for name in KINDS if name in text} == set(KINDS)


@pytest.mark.parametrize("name", TABLE)
def test_the_same_error_for_somebody_else_is_another_exception_that_says_the_same(name: str) -> None:
    error = made(KINDS[name])
    again = error.again()
    assert again is not error
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert (again.detail, again.hint, again.retry_after) == (error.detail, error.hint, error.retry_after)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TenantProxyError("it broke"), "it broke"),
        (TenantProxyError("it broke", detail="limit = 3"), "it broke. limit = 3"),
        (TenantProxyError("it broke.", detail="limit = 3", hint="raise it!"), "it broke. limit = 3. raise it!"),
        (TenantProxyError("it broke", hint="raise it"), "it broke. raise it"),
    ],
)
def test_the_text_of_an_error_is_message_detail_and_hint_as_sentences(error: TenantProxyError, text: str) -> None:
    assert str(error) == text


def test_problem_json_holds_what_a_stranger_may_know() -> None:
    error = PoolTimeout("no connection", detail="max_size = 3", hint="raise it", retry_after=5.0)
    assert problem_json(error, request_id="r-1") == {
        "type": "about:blank",
        "title": "no connection",
        "status": 503,
        "code": "pool_timeout",
        "detail": "max_size = 3 raise it",
        "request_id": "r-1",
    }
    assert problem_json(TenantProxyError("no")) == {
        "type": "about:blank",
        "title": "no",
        "status": 500,
        "code": "internal_error",
    }


def test_an_error_response_has_the_fields_of_the_protocol() -> None:
    error = PoolTimeout("no connection", detail="max_size = 3", hint="raise it")
    assert error_response(error) == {
        "S": "ERROR",
        "V": "ERROR",
        "C": "53300",
        "M": "no connection",
        "D": "max_size = 3",
        "H": "raise it",
    }
    assert error_response(TenantProxyError("no"), fatal=True) == {"S": "FATAL", "V": "FATAL", "C": "XX000", "M": "no"}


def test_a_configuration_error_shows_every_problem_with_key_problem_and_fix() -> None:
    problems = [
        Problem(key="pools.max_size", problem="must be at least 1", fix="write 10"),
        Problem(key="main", problem="is missing", fix="add [main]"),
    ]
    text = str(ConfigurationError(problems, source="tenantproxy.toml"))
    assert "2 problems in the configuration (tenantproxy.toml):" in text
    assert "pools.max_size: must be at least 1; write 10" in text
    assert "main: is missing; add [main]" in text
    assert "1 problem in the configuration:" in str(ConfigurationError(problems[:1]))
