"""Whom does `tenantproxy pools` show the admin token to?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tenantproxy.cli.main import app
from tenantproxy.cli.read import may_have_token
from tenantproxy.config import Admin
from tenantproxy.errors import TenantProxyError

TOKEN = "an admin token that no other user may have"
TOML = """
main = { server = "primary", database = "main" }
servers = { primary = { user = "app", password = "" } }
registry = { source = "file" }
admin = { token_file = "token", %s }
"""


class Listener(HTTPServer):
    """Answers like an admin listener and keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: list[str | None] = []
        super().__init__(("0.0.0.0", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Listener

    def do_GET(self) -> None:
        self.server.sent.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"pools": []}')

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[Listener]:
    with Listener() as made:
        threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield made
        finally:
            made.shutdown()


@pytest.fixture
def listener() -> Iterator[Listener]:
    with listening() as made:
        yield made


def asked(folder: Path, *args: str, hosts: str = "hosts = []") -> Result:
    (folder / "token").write_text(TOKEN)
    (folder / "tp.toml").write_text(TOML % hosts)
    done = CliRunner().invoke(app, ["pools", "--config", str(folder / "tp.toml"), *args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_a_foreign_address_never_sees_the_configured_token(listener: Listener, tmp_path: Path) -> None:
    asked(tmp_path, "--url", f"http://0.0.0.0:{listener.server_port}")  # neither loopback nor named
    assert listener.sent == [None]


def test_this_machine_and_named_hosts_get_the_token(listener: Listener, tmp_path: Path) -> None:
    asked(tmp_path, "--url", f"http://127.0.0.1:{listener.server_port}")
    asked(tmp_path, "--url", f"http://LocalHost:{listener.server_port}", hosts='hosts = ["localhost"]')
    asked(tmp_path, "--url", f"http://0.0.0.0:{listener.server_port}", "--token-file", str(tmp_path / "token"))
    assert listener.sent == [f"Bearer {TOKEN}"] * 3


def test_no_proxy_of_the_environment_sees_the_token(
    listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.server_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with listening() as other:
        asked(tmp_path, "--url", f"http://127.0.0.1:{other.server_port}")
    assert (listener.sent, other.sent) == ([], [f"Bearer {TOKEN}"])


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://tp.internal:8081", True),
        ("http://10.0.0.5:8081", True),
        ("http://10.0.0.6:8081", False),
        ("http://tp.internal.example.org", False),
        ("http://localhost.example.org", False),
    ],
)
def test_the_token_is_for_named_hosts_alone(url: str, may: bool) -> None:
    admin = Admin(listen="10.0.0.5:8081", hosts=("TP.internal",))
    assert may_have_token(url, admin) is may


@pytest.mark.parametrize("url", ["http://127.0.0.1@example.org", "ftp://127.0.0.1", "http://[::1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TenantProxyError, match="not an http address"):
        may_have_token(url, Admin())
