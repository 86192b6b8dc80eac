"""Is the log of the process one line a record, whatever happens in it?"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tenantproxy.context import REQUEST_ID, SERVED_TENANT
from tenantproxy.sidecar.logs import configure_logging

Written = Callable[[Any], Callable[[], str]]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Written]:
    """`written(form)` begins a log in this form, and returns what reads it."""
    root = logging.getLogger()
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # and back
    monkeypatch.setattr(root, "handlers", [])
    level = root.level

    def begin(form: Any) -> Callable[[], str]:
        configure_logging(form=form)
        return lambda: capsys.readouterr().err

    yield begin
    root.setLevel(level)


FORMS = pytest.mark.parametrize("form", ["json", "console"])


@FORMS
def test_a_traceback_shows_no_variable_and_so_no_secret(form: str, written: Written) -> None:
    read, password = written(form), "s3cr3t-canary"
    try:
        raise RuntimeError(str(len(password)))
    except RuntimeError:
        logging.getLogger("tenantproxy").exception("a login failed")
    told = read()
    assert "RuntimeError: 13" in told
    assert "canary" not in told


@FORMS
def test_a_line_has_the_request_and_the_tenant_of_its_context(form: str, written: Written) -> None:
    read, request, tenant = written(form), REQUEST_ID.set("req-7"), SERVED_TENANT.set("acme")
    try:
        logging.getLogger("tenantproxy").warning("what happened")
        logging.getLogger("tenantproxy").warning("that", extra={"request_id": "pg-8", "tenant": "wayne"})
    finally:
        REQUEST_ID.reset(request)
        SERVED_TENANT.reset(tenant)
    first, second = read().splitlines()
    assert fields_of(form, first) == ("req-7", "acme")
    assert fields_of(form, second) == ("pg-8", "wayne")


def fields_of(form: str, line: str) -> tuple[str, str]:
    if form == "json":
        told = json.loads(line)
        return told["request_id"], told["tenant"]
    told = dict(re.findall(r"(request_id|tenant)=(\S+)", line))
    return told["request_id"], told["tenant"]


@FORMS
def test_what_a_client_chose_writes_no_escape_sequence(form: str, written: Written) -> None:
    read = written(form)
    logging.getLogger("tenantproxy").warning("slow", extra={"statement": "\x1b[2J\x07\x9b31m"})
    assert read().strip().isprintable()
    try:
        raise ValueError("\x1b[2J\x9b31m\u202e")
    except ValueError:
        logging.getLogger("tenantproxy").exception("failed", extra={"told": ({"name": "\x1b[2J\u202e"},)})
    assert all(each.isprintable() or each == "\n" for each in read())


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
