"""Which descriptors of socket activation become listeners, and which are refused?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TAKES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
if int(sys.argv[1]) != 3:
    os.close(int(sys.argv[1]))
from tenantproxy.errors import ConfigurationError
from tenantproxy.sidecar.systemd import activated
variables = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[2], "LISTEN_FDNAMES": sys.argv[3]}
try:
    print(sorted(activated({"pg": "127.0.0.1:5", "http": "127.0.0.1:6"}, variables)), variables)
except ConfigurationError as exc:
    print(exc)
"""


def taken(sock: socket.socket, count: str, names: str = "pg") -> str:
    """What a process says that was handed over `sock` as descriptor 3, and told of so many."""
    command = [sys.executable, "-c", TAKES, str(sock.fileno()), count, names]
    ended = subprocess.run(
        command, cwd=ROOT, pass_fds=[sock.fileno()], env=os.environ, capture_output=True, text=True, check=True
    )
    return ended.stdout.strip()


def test_a_socket_that_listens_is_taken_and_its_variables_removed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert taken(sock, "1") == "['pg'] {}"


def test_more_descriptors_than_were_handed_over_are_refused_by_number() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert "LISTEN_FDS=2, descriptor 4: is no socket" in taken(sock, "2", "pg:http")


def test_a_count_without_end_is_refused_at_its_first_descriptor() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert "LISTEN_FDS=1000000000, descriptor 4: is no socket" in taken(sock, "1000000000")


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (socket.socket, "is no socket that listens"),
        (lambda: socket.socket(type=socket.SOCK_DGRAM), "is no socket that listens"),
        (lambda: socket.socket(socket.AF_UNIX), "is no TCP socket"),
    ],
)
def test_what_is_no_tcp_socket_that_listens_is_refused(made: Callable[[], socket.socket], wrong: str) -> None:
    with made() as sock:
        assert f"LISTEN_FDS=1, descriptor 3: {wrong}" in taken(sock, "1")


def test_a_socket_of_no_listener_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert "no listener of the configuration is meant by it: 'metrics'" in taken(sock, "1", "metrics")
