"""How do a client's bytes reach a backend that is its tenant's, and the answers the client?

A relay is one client after its login. It looks at kinds and lengths, not into values; what it must know of a message it
asks `wire`. It holds a backend from the first byte of a transaction (or of its session) to the ReadyForQuery that ends
it with nothing unanswered, and no byte of the client's goes out before the lender has said that the backend is its
tenant's. In any doubt the backend is destroyed, never lent again.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from time import monotonic
from typing import Final, Protocol

from tenantproxy.errors import ConnectFailed, PoolClosed, ProtocolError, TenantProxyError, TenantSuspended
from tenantproxy.model import Route
from tenantproxy.pools.backend import RawBackend
from tenantproxy.pools.pool import Pool
from tenantproxy.pools.raw_lender import Acquire, RawLender
from tenantproxy.sidecar.pg.traffic import Traffic
from tenantproxy.wire import answers, frames
from tenantproxy.wire.commands import WATCHED, deallocate_of, leaves_state, unbinds
from tenantproxy.wire.flight import FUNCTION, QUERY, SYNC, Flight
from tenantproxy.wire.frames import HEADER, IDLE, IN_FAILED_TRANSACTION, length_of
from tenantproxy.wire.settings import Settings, is_tracked, read_set, with_value
from tenantproxy.wire.statements import Statements

__all__ = ["Relay", "Source"]

_LENGTH: Final = struct.Struct("!I").unpack_from
_STREAMED: Final = 65_536  # of a message that need not be seen whole; less is waited for before a backend is taken
_MAX_WHOLE: Final = 16 * 1024 * 1024  # a statement's text
_MAX_HELD: Final = 262_144  # bytes of a client that waits, before it is not read any further
_RENEW_SECONDS: Final = 20.0  # before its proof ends a binding is renewed, between transactions

# The parts of the two hot loops.
_QUERY: Final = frames.QUERY
_BIND: Final = frames.BIND
_EXECUTE: Final = frames.EXECUTE
_SYNC: Final = frames.SYNC
_DATA_ROW: Final = frames.DATA_ROW
_READY: Final = frames.READY
_COMMAND_COMPLETE: Final = frames.COMMAND_COMPLETE
_ACKNOWLEDGED: Final = frozenset((frames.PARSE_COMPLETE, frames.CLOSE_COMPLETE))
_WITHOUT_SERVER: Final = frozenset(
    (frames.TERMINATE, frames.FLUSH, frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL)
)
_PASSED: Final = frozenset((frames.EXECUTE, frames.FLUSH))
_COPYING: Final = frozenset((frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL))
_WHOLE: Final = frozenset((frames.PARSE, frames.DESCRIBE, frames.CLOSE))
_MAY_STREAM: Final = frozenset((_QUERY, frames.COPY_DATA, frames.FUNCTION_CALL, frames.COPY_FAIL))
_SMALL: Final = frozenset(  # of a server: looked at whole
    (_READY, _COMMAND_COMPLETE, frames.ERROR, frames.PARAMETER_STATUS, frames.COPY_IN) + tuple(_ACKNOWLEDGED)
)
_STALE_PLAN: Final = b"RRevalidateCachedQuery\0"
_LOST_STATEMENT: Final = (b"C26000\0", b"C42P05\0")
