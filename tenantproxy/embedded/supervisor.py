"""Who sees to it that the server goes when we do, even after kill -9? This script, the parent of the postmaster.

Run as a child with a pipe as its standard input. A byte there says how to stop (`f` fast, `i` immediate); its end,
which the kernel brings about however our process ends, means: stop at once and remove the data. A pipe and not
PR_SET_PDEATHSIG, which is lost when the user changes, fires when the starting *thread* ends, and is Linux only.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

_PATIENCE = 10.0  # the postmaster kills children that ignore SIGQUIT after 5 s by itself


def main() -> int:
    """Start the command, pass on what the pipe says; exit with the command's status."""
    spec = json.loads(sys.argv[1])
    child = subprocess.Popen(spec["command"], stdin=subprocess.DEVNULL, **spec["as_user"])
    orphaned = threading.Event()

    def listen() -> None:
        signals = {b"f": signal.SIGINT, b"i": signal.SIGQUIT}
        while byte := os.read(0, 1):
            child.send_signal(signals[byte])
        orphaned.set()
        child.send_signal(signal.SIGQUIT)
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()

    signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT))
    threading.Thread(target=listen, daemon=True).start()
    status = child.wait()
    if orphaned.is_set():
        shutil.rmtree(spec["directory"], ignore_errors=True)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    # Not sys.exit: a daemon thread in read() must not be waited for.
    os._exit(main())
