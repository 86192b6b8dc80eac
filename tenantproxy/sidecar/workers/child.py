"""How is another process started that talks back? Besides sockets it is given one descriptor: its end of a link.

It is gone when its link is; who starts it waits for its exit then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tenantproxy.sidecar.workers.link import Handler, Link

__all__ = ["Child"]

_LOOK_SECONDS: Final = 0.02
_PATIENCE: Final = 5.0  # for a process to end whose link is closed


class Child:
    """A process, and the link to it. Closing the link asks it to end by itself."""

    def __init__(self, process: subprocess.Popen[bytes], link: Link, ended: asyncio.Event) -> None:
        self.process = process
        self.link = link
        self._ended = ended

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        handler: Handler,
        *,
        fds: Iterable[int] = (),
        variables: Mapping[str, str] | None = None,
        variable: str = "",
    ) -> Child:
        """Start `command` with the descriptors `fds`; the number of its end of the link is in the variable `variable`.

        Raises OSError.
        """
        here, there = socket.socketpair()
        ended = asyncio.Event()
        environment = {**(os.environ if variables is None else variables), variable: str(there.fileno())}
        try:
            process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, env=environment, pass_fds=[*fds, there.fileno()]
            )
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        return cls(process, Link(here, handler, on_end=ended.set), ended)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    async def open(self) -> None:
        """Begin to talk."""
        await self.link.open()

    async def wait(self) -> int:
        """Its exit status, when it has ended. One that has closed its link and goes on is killed after some seconds."""
        await self._ended.wait()
        for _ in range(round(_PATIENCE / _LOOK_SECONDS)):
            if self.process.poll() is not None:
                break
            await asyncio.sleep(_LOOK_SECONDS)
        else:
            self.process.kill()
        while self.process.poll() is None:  # noqa: ASYNC110 - no signal of a child is ours to take
            await asyncio.sleep(_LOOK_SECONDS)
        await self.link.close()
        return int(self.process.returncode)

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
