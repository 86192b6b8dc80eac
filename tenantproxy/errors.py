"""What can go wrong, and how does it look from outside?

    TenantProxyError 500 XX000
      ConfigurationError                 at start only: names the key, the problem and the fix
      AuthError 401 28000
        TenantUnresolved 400 08P01: TenantMissing  InvalidCredentials 401 28P01  TokenExpired 401 28000
        AccessDenied 403 42501: TenantMismatch  DocumentRefused
        TooManyAttempts 429 53400  LoginUnavailable 503 08006 retry
      TenantError
        TenantNotFound 404 3D000    TenantPaused 503 57P03 retry  TenantSuspended 403 28000
      RegistryUnavailable 503 08006 retry
      DocumentsUnavailable 503 08006 retry
      TooManyClients 503 53300 retry
      OutOfMemory 503 53200 retry        StatementTooLong 400 54000
      QueryTimeout 504 57014    IdleSession 503 57P05
      PoolError 503 53300 retry
        PoolTimeout  PoolFull  BudgetExhausted  TooManyPinned  IdlePinned 57P05  PoolClosed 57P01  ConnectFailed 08001
        LeaseExpired 57P01              held for too long while others wait: its connection was closed
          IdleTransaction 25P03         ServerMoved 57P01: a failover  TenantEnded 403: suspended, deleted
      IsolationError 500 XX000           the session could not be proven the tenant's: destroyed
        UnprotectedRelations             its role reaches what no policy holds
      ProtocolError 400 08P01            the wire peer's fault
        InvalidSetting 400 22023    NotSupported 400 0A000

PostgreSQL's own errors are not in this tree: they pass through untouched. No message here ever holds a DSN, a password,
a token, a proof or the value of a bind parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

__all__ = [
    "AccessDenied",
    "AuthError",
    "BudgetExhausted",
    "ConfigurationError",
    "ConnectFailed",
    "DocumentRefused",
    "DocumentsUnavailable",
    "Exposure",
    "IdlePinned",
    "IdleSession",
    "IdleTransaction",
    "InvalidCredentials",
    "InvalidSetting",
    "IsolationError",
    "LeaseExpired",
    "LoginUnavailable",
    "NotSupported",
    "OutOfMemory",
    "PoolClosed",
    "PoolError",
    "PoolFull",
    "PoolTimeout",
    "Problem",
    "ProtocolError",
    "QueryTimeout",
    "RegistryUnavailable",
    "ServerMoved",
    "StatementTooLong",
    "TenantEnded",
    "TenantError",
    "TenantMismatch",
    "TenantMissing",
    "TenantNotFound",
    "TenantPaused",
    "TenantProxyError",
    "TenantSuspended",
    "TenantUnresolved",
    "TokenExpired",
    "TooManyAttempts",
    "TooManyClients",
    "TooManyPinned",
    "UnprotectedRelations",
    "error_response",
    "is_passing",
    "problem_json",
]


class TenantProxyError(Exception):
    """Root of every error that tenantproxy raises itself.

    `detail` says which limit or rule and its value, `hint` what to do, `retry_after` (seconds) when to try again.
    """

    http_status: ClassVar[int] = 500
    sqlstate: ClassVar[str] = "XX000"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(
        self, message: str, *, detail: str | None = None, hint: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint
        self.retry_after = retry_after

    @property
    def page(self) -> str:
        """Where the documentation says what it means and what to do; `docs/` is the project's."""
        return f"docs/errors.md#{self.code}"

    def again(self) -> Self:
        """The same error for another caller: an exception that is raised twice collects both tracebacks."""
        copy = type(self)(self.message, detail=self.detail, hint=self.hint, retry_after=self.retry_after)
        copy.__cause__ = self.__cause__
        return copy

    def __str__(self) -> str:
        *before, last = [part for part in (self.message, self.detail, self.hint) if part] or [""]
        text = " ".join(part if part.endswith((".", "!", "?")) else part + "." for part in before)
        last = last if last.endswith("...") else last.removesuffix(".")
        return f"{text} {last}" if text else last


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with the configuration: which key, what is wrong, how to correct it."""

    key: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.key}: {self.problem}; {self.fix}"


class ConfigurationError(TenantProxyError):
    """The configuration cannot be used; raised at start, with every problem at once and no value of a secret."""

    code = "configuration_error"

    def __init__(self, problems: Iterable[Problem], *, source: str | None = None) -> None:
        self.problems = tuple(problems)
        self.source = source
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in the configuration"
        super().__init__("\n  ".join([f"{head} ({source}):" if source else f"{head}:", *map(str, self.problems)]))

    def again(self) -> Self:
        """See TenantProxyError.again."""
        return type(self)(self.problems, source=self.source)


class AuthError(TenantProxyError):
    """Who is asking, or for which tenant, could not be established."""

    http_status, sqlstate, code = 401, "28000", "unauthorized"


class TenantUnresolved(AuthError):
    """No tenant was named where one is needed; there is never a default."""

    http_status, sqlstate, code = 400, "08P01", "tenant_unresolved"


class TenantMissing(TenantUnresolved):
    """Code asked for the current tenant where none is set. A middleware tells its callers what they lack instead."""

    code = "tenant_missing"


class InvalidCredentials(AuthError):
    """Unknown account or wrong password; the two cannot be told apart. `reason` is for the operator's log alone."""

    http_status, sqlstate, code = 401, "28P01", "invalid_credentials"
    reason: str = ""


class TokenExpired(AuthError):
    """The access token was good once."""

    http_status, sqlstate, code = 401, "28000", "token_expired"


class AccessDenied(AuthError):
    """The caller is known and may not do this."""

    http_status, sqlstate, code = 403, "42501", "access_denied"


class DocumentRefused(AccessDenied):
    """An operation on documents that could reach those of other tenants, or that the guard does not know."""

    code = "document_refused"


class TenantMismatch(AccessDenied):
    """Sources name different tenants, or one that does not exist; `[resolve] mismatch_text` is what callers read."""

    code = "tenant_mismatch"


class TooManyAttempts(AuthError):
    """Throttled: try again after `retry_after` seconds."""

    http_status, sqlstate, code, retryable = 429, "53400", "too_many_attempts", True


class LoginUnavailable(AuthError):
    """A database that may hold the account cannot be asked: told to all whose login fails, account or not."""

    http_status, sqlstate, code, retryable = 503, "08006", "login_unavailable", True


class TenantError(TenantProxyError):
    """The tenant exists or does not, and cannot be served now."""

    http_status, sqlstate, code = 404, "3D000", "tenant_error"


class TenantNotFound(TenantError):
    """No such tenant: unknown identifier, or one that cannot name a tenant."""

    http_status, sqlstate, code = 404, "3D000", "tenant_not_found"


class TenantPaused(TenantError):
    """The tenant is being set up or is paused; it comes back."""

    http_status, sqlstate, code, retryable = 503, "57P03", "tenant_paused", True


class TenantSuspended(TenantError):
    """The tenant is suspended, inactive or being deleted."""

    http_status, sqlstate, code = 403, "28000", "tenant_suspended"


class RegistryUnavailable(TenantProxyError):
    """Where the tenant lives could not be looked up, and nothing known for it is recent enough."""

    http_status, sqlstate, code, retryable = 503, "08006", "registry_unavailable", True


class DocumentsUnavailable(TenantProxyError):
    """A MongoDB cluster cannot be asked, or did not answer in time."""

    http_status, sqlstate, code, retryable = 503, "08006", "documents_unavailable", True


class TooManyClients(TenantProxyError):
    """As many clients of the PostgreSQL port are connected as may be, in all or of one tenant, user or address."""

    http_status, sqlstate, code, retryable = 503, "53300", "too_many_clients", True


class OutOfMemory(TenantProxyError):
    """The clients of a tenant made the PostgreSQL port keep as much as it may: texts of statements, bytes that wait."""

    http_status, sqlstate, code, retryable = 503, "53200", "out_of_memory", True


class StatementTooLong(TenantProxyError):
    """A statement with a name, in transaction mode, whose text is longer than is kept."""

    http_status, sqlstate, code = 400, "54000", "statement_too_long"


class QueryTimeout(TenantProxyError):
    """What a client of the PostgreSQL port had run took longer than `query_timeout`."""

    http_status, sqlstate, code = 504, "57014", "query_timeout"


class IdleSession(TenantProxyError):
    """A client of the PostgreSQL port asked for nothing for longer than `client_idle_timeout`."""

    http_status, sqlstate, code = 503, "57P05", "idle_session"


class PoolError(TenantProxyError):
    """No connection could be lent. `http_status` 503, `Retry-After` where waiting helps."""

    http_status, sqlstate, code, retryable = 503, "53300", "pool_error", True


class PoolTimeout(PoolError):
    """No connection of the tenant became free within the acquire timeout."""

    code = "pool_timeout"
    is_server_slow = False
    """Whether it was the server that took its time to open one more: no limit was met."""


class PoolFull(PoolError):
    """As many callers of this tenant wait already as may wait (`max_waiting`)."""

    code = "pool_full"


class TooManyPinned(PoolError):
    """As many clients of the tenant keep a connection for what they left in its session as may (`max_pinned`)."""

    code = "too_many_pinned"


class IdlePinned(PoolError):
    """A client kept a connection for what it left in its session, idle, while others of the tenant waited."""

    sqlstate, code = "57P05", "idle_pinned"


class BudgetExhausted(PoolError):
    """The server's `max_connections` budget had no connection to spare within the acquire timeout."""

    code = "budget_exhausted"


class PoolClosed(PoolError):
    """The router, or the tenant's pool, is closed."""

    sqlstate, code = "57P01", "pool_closed"


class LeaseExpired(PoolError):
    """A connection was held for longer than `max_hold` while others waited, and was closed; what ran was cancelled.

    What the transaction under way did is undone.
    """

    sqlstate, code = "57P01", "lease_expired"


class IdleTransaction(LeaseExpired):
    """A client left a transaction open and idle for longer than `idle_transaction_timeout`."""

    sqlstate, code = "25P03", "idle_in_transaction"


class TenantEnded(LeaseExpired):
    """The tenant of a lease was suspended or deleted: what its transaction did is undone."""

    http_status, code, retryable = 403, "tenant_ended", False


class ServerMoved(LeaseExpired):
    """The server of a lease has failed over to another host: what its transaction did on the old one is not kept."""

    code = "server_moved"


class ConnectFailed(PoolError):
    """The PostgreSQL server could not be reached, or refused us: `refusal` is the SQLSTATE with which it did."""

    sqlstate, code = "08001", "connect_failed"

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        refusal: str | None = None,
        lasting: bool = False,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint, retry_after=retry_after)
        self.refusal = refusal
        self.lasting = lasting  # nothing was refused, and yet the next attempt will fail alike: TLS, `init`

    def again(self) -> Self:
        """See TenantProxyError.again."""
        again = super().again()
        again.refusal = self.refusal
        again.lasting = self.lasting
        return again


class IsolationError(TenantProxyError):
    """The session could not be proven the tenant's. The connection is destroyed and nothing of the caller ran on it."""

    code = "isolation_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """One thing by which a tenant's session could get at another's rows: what, why, and the command that closes it."""

    what: str
    why: str
    fix: str


class UnprotectedRelations(IsolationError):
    """The role of a tenant's session reaches relations of other tenants that no policy of tenantproxy holds.

    `exposures` are those that were looked at, `count` is how many there are. Looked at again at the next connect.
    """

    code = "unprotected_relations"

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        retry_after: float | None = None,
        exposures: Iterable[Exposure] = (),
        count: int = 0,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint, retry_after=retry_after)
        self.exposures = tuple(exposures)
        self.count = count

    def again(self) -> Self:
        """See TenantProxyError.again."""
        again = super().again()
        again.exposures, again.count = self.exposures, self.count
        return again


class ProtocolError(TenantProxyError):
    """The peer on the wire broke the protocol."""

    http_status, sqlstate, code = 400, "08P01", "protocol_error"


class InvalidSetting(ProtocolError):
    """A session setting that may not be set from outside, or not to this value."""

    http_status, sqlstate, code = 400, "22023", "invalid_setting"


class NotSupported(ProtocolError):
    """Part of the protocol, or of PostgreSQL, that is not to be had through us."""

    http_status, sqlstate, code = 400, "0A000", "not_supported"


def is_passing(error: BaseException) -> bool:
    """Whether `error` says that a server cannot be reached now, and not that something is configured wrongly."""
    if isinstance(error, RegistryUnavailable):
        return error.__cause__ is not None and is_passing(error.__cause__)
    if isinstance(error, ConnectFailed):
        if error.refusal is None:
            return not error.lasting
        return error.refusal[:2] in _PASSING and error.refusal != _PROTOCOL_VIOLATION
    return isinstance(error, PoolTimeout | BudgetExhausted | OSError)


_PROTOCOL_VIOLATION: Final = "08P01"  # what answers there is no PostgreSQL, but a pooler that refuses our settings
_NO_DATABASE: Final = "3D000"
_PASSING: Final = ("08", "53", "57")  # classes of SQLSTATE: connection, resources, operator intervention


def problem_json(error: TenantProxyError, *, request_id: str | None = None) -> dict[str, object]:
    """`error` as an RFC 9457 `application/problem+json` object."""
    body: dict[str, object] = {
        "type": "about:blank",
        "title": error.message,
        "status": error.http_status,
        "code": error.code,
    }
    detail = " ".join(part for part in (error.detail, error.hint) if part)
    if detail:
        body["detail"] = detail
    if isinstance(error, AccessDenied):
        body["error"] = error.message  # what clients of such platforms look for
    if request_id is not None:
        body["request_id"] = request_id
    return body


def error_response(error: TenantProxyError, *, fatal: bool = False) -> Mapping[str, str]:
    """`error` as the fields of an ErrorResponse, by field code (protocol-error-fields in PostgreSQL's docs)."""
    severity = "FATAL" if fatal else "ERROR"
    sqlstate = error.sqlstate
    if isinstance(error, ConnectFailed) and error.refusal == _NO_DATABASE:
        sqlstate = _NO_DATABASE  # as from a server: clients know what it means
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": error.message}
    if error.detail:
        fields["D"] = error.detail
    if error.hint:
        fields["H"] = error.hint
    return fields
