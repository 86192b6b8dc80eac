"""Is the id of a request that brings none its own?"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tenantproxy.middleware.problems import request_id


def test_no_two_requests_have_the_same_id() -> None:
    ids = [request_id(()) for _ in range(500)]
    assert len(set(ids)) == 500
    assert {len(each) for each in ids} == {32}
    assert all(each == f"{int(each, 16):032x}" for each in ids)
    assert request_id(("a",)) == "a"
    assert request_id(("a", "b")) != request_id(("a b",))


FORKED = """
import os
from tenantproxy.middleware.problems import request_id
request_id(())
pid = os.fork()
os.write(1, "".join(f"{request_id(())}\\n" for _ in range(100)).encode())
if pid:
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks there")
def test_a_forked_process_has_ids_of_its_own() -> None:
    ids = subprocess.run([sys.executable, "-c", FORKED], check=True, capture_output=True, text=True).stdout.split()
    assert len(ids) == len(set(ids)) == 200
