"""Does `tenantproxy top` show who waits, first, and go on when a look fails?"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tenantproxy.cli.main import app
from tenantproxy.cli.top import shown


def pool(label: str, *, used: int = 0, waiting: int = 0) -> dict[str, Any]:
    tenants = [{"tenant": label, "leased": used, "waiting": waiting, "oldest_wait_seconds": 1.5, "max_size": 10}]
    return {
        "label": label, "key": {"server": "primary", "database": label}, "used": used, "limit": 10, "idle": 1,
        "opening": 0, "resetting": 1, "retiring": 0, "lingering": 0, "waiting": waiting, "tenants": tenants,
    }  # fmt: skip


def server(*, connections: int, up: bool = True) -> dict[str, Any]:
    return {"server": "primary", "connections": connections, "limit": 20, "waiting_pools": 0, "up": up, "host": "db1"}


POOLS = [pool("quiet"), pool("busy", used=9), pool("starving", used=2, waiting=7), pool("[bold]odd")]


def text_of(*args: Any, **options: Any) -> list[str]:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(shown(*args, **options))
    return console.export_text().splitlines()


def test_pools_that_clients_wait_for_come_first_with_their_oldest_wait() -> None:
    lines = text_of([server(connections=12)], POOLS)
    order = [next(at for at, line in enumerate(lines) if name in line) for name in ("starving", "busy", "[bold]odd")]
    assert order == sorted(order)
    assert "1.50 s" in lines[order[0]]
    assert "4 pools, 11 connections used, 7 waiting" in "\n".join(lines)
    assert not any("1.50 s" in line for line in lines[order[0] + 1 :])


@pytest.mark.parametrize(("order", "first"), [("used", "busy"), ("name", "[bold]odd")])
def test_pools_are_sorted_as_asked(order: str, first: str) -> None:
    lines = [line for line in text_of([], POOLS, order=order) if any(each["label"] in line for each in POOLS)]
    assert first in lines[0]


def test_what_a_terminal_does_not_hold_is_counted() -> None:
    lines = text_of([server(connections=1)], [pool(f"t{number:03}") for number in range(500)], lines=20)
    assert len(lines) <= 20
    assert any("and 489 more" in line for line in lines)


def test_a_server_that_is_down_says_so() -> None:
    assert any("down" in line for line in text_of([server(connections=0, up=False)], []))


class _TopHandler(BaseHTTPRequestHandler):
    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        is_well = type(self).looks <= 2  # one look, and then none
        self.send_response(200 if is_well else 503)
        self.end_headers()
        told = {"servers": [server(connections=3)], "pools": POOLS}
        self.wfile.write(json.dumps(told).encode() if is_well else b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[str]:
    _TopHandler.looks = 0
    with HTTPServer(("127.0.0.1", 0), _TopHandler) as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def test_a_look_that_fails_keeps_the_last_one_and_says_why(listener: str) -> None:
    done = CliRunner().invoke(app, ["top", "--url", listener, "--looks", "2", "--every", "0.2"])
    assert done.exit_code == 0, done.output
    assert "starving" in done.output
    assert "answers 503" in done.output


def test_a_first_look_that_fails_is_an_error_and_so_is_an_unknown_order(listener: str) -> None:
    _TopHandler.looks = 2
    assert CliRunner().invoke(app, ["top", "--url", listener]).exit_code != 0
    assert CliRunner().invoke(app, ["top", "--sort", "size"]).exit_code == 2
