"""Where does the process write its log? One line a record on stderr: JSON, or in colour for a person at a terminal."""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress
from time import monotonic
from typing import Final, Literal, TextIO

import structlog

from tenantproxy.context import REQUEST_ID, SERVED_TENANT, current
from tenantproxy.errors import AccessDenied, TenantUnresolved
from tenantproxy.printable import printable

__all__ = ["RequestFields", "configure_logging"]

_HANDLER: Final = "tenantproxy"

logger = logging.getLogger("tenantproxy")


class _Unraisable:
    """What Python can raise nowhere becomes a line of the log, once a second at most, and never what it was about.

    Clients can cause it as often as they like: a server name in TLS that is not ASCII is one.
    """

    def __init__(self) -> None:
        self._second = 0
        self._untold = 0

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        second = int(monotonic())
        if second == self._second:
            self._untold += 1
            return
        self._second, untold, self._untold = second, self._untold, 0
        where = type(unraisable.object).__name__
        logger.warning("ignored: %s in %s", unraisable.exc_type.__name__, where, extra={"untold": untold})


class RequestFields(logging.Filter):
    """Adds `request_id` and `tenant` of the request that is being answered, where a record does not say them."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass."""
        if (request := REQUEST_ID.get()) and not hasattr(record, "request_id"):
            record.request_id = request
        if not hasattr(record, "tenant"):
            if served := SERVED_TENANT.get():
                record.tenant = served
            with suppress(TenantUnresolved, AccessDenied):
                record.tenant = current().id
        return True


def _console() -> structlog.dev.ConsoleRenderer:
    """In colour at a terminal alone. A traceback has no variables: structlog's default shows them, secrets too."""
    is_coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return structlog.dev.ConsoleRenderer(colors=is_coloured, exception_formatter=_traceback)


def _traceback(out: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    """What a server or a client says in an exception must not write to a terminal either."""
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    out.write(printable(text.getvalue()))


def _printable(_logger: object, _name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What a client chose must not write to the terminal of who reads the log."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = ascii(value)
    return event


def configure_logging(*, level: str = "INFO", form: Literal["auto", "json", "console"] = "auto") -> None:
    """Give the root logger one handler (again: replaces ours). `form="auto"`: JSON unless stderr is a terminal."""
    as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer() if as_json else _console()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shared.append(structlog.processors.format_exc_info if as_json else _printable)
    handler = logging.StreamHandler(sys.stderr)
    handler.set_name(_HANDLER)
    handler.addFilter(RequestFields())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    sys.unraisablehook = _Unraisable()
    root = logging.getLogger()
    for old in [each for each in root.handlers if each.get_name() == _HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
