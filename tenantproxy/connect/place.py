"""Where does one connect go, and is the server that answers there the one that was chosen?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenantproxy.config import Server
from tenantproxy.connect.host_look import ANONYMOUS_STATE, KNOWN_STATE, state_of
from tenantproxy.connect.hosts import ChosenHost, Hosts

__all__ = ["Place"]


class Place:
    """Where one connect goes: `server` has one host. `question` is to be asked there, if there is one."""

    __slots__ = ("_chosen", "_hosts", "question", "server")

    def __init__(self, server: Server, hosts: Hosts | None = None, chosen: ChosenHost | None = None) -> None:
        self.server = server
        self._hosts = hosts
        self._chosen = chosen
        self.question = None if hosts is None else KNOWN_STATE if hosts.cluster.system else ANONYMOUS_STATE

    def confirm(self, row: Mapping[str, Any]) -> None:
        """`row` is what the server answered to `question`. Raises HostMoved when it is not the one that was chosen."""
        if self._hosts is not None and self._chosen is not None:
            self._hosts.confirm(self._chosen, state_of(row))

    def check(self) -> None:
        """Raises HostMoved when another host serves by now. To be asked last, before a pool has the connection."""
        if self._hosts is not None and self._chosen is not None:
            self._hosts.check(self._chosen)
