"""Is the log of the process one line a record, whatever happens in it?"""

from __future__ import annotations

import logging
import sys

import pytest

from tenantproxy.sidecar.logs import configure_logging


class Args:
    exc_type, exc_value, exc_traceback, err_msg = UnicodeDecodeError, None, None, None
    object = b"what a stranger sent"


def test_errors_that_strangers_cause_inside_of_python_are_told_once_a_second(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # and back
    monkeypatch.setattr(root, "handlers", [])
    configure_logging()
    monkeypatch.setattr(root, "handlers", [caplog.handler])
    for _ in range(1000):
        sys.unraisablehook(Args)  # type: ignore[arg-type]
    assert 1 <= len(caplog.messages) <= 3
    assert caplog.messages[0] == "ignored: UnicodeDecodeError in bytes"
