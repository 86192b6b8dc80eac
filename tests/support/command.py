"""How does a test run the command line while its own loop goes on?"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

from tests.support.waiting import PATIENCE


async def command(*args: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """`command("tenants", "list")`; `given` is its standard input. No TENANTPROXY variable is passed on."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TENANTPROXY_")}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tenantproxy", *args],
        env={**environment, "COLUMNS": "200", "NO_COLOR": "1"},
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
