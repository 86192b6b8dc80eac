"""Does a process find those of its host that are dead, and no living one?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tenantproxy import ConfigurationError
from tenantproxy.fleet.host import HostSlot

A, B, C = UUID(int=1), UUID(int=2), UUID(int=3)
_HOLD = (
    "import sys; from uuid import UUID; from tenantproxy.fleet.host import HostSlot;"
    " HostSlot(sys.argv[1], 'f').claim(UUID(int=7)); print('held', flush=True); sys.stdin.read()"
)


def test_a_process_that_was_killed_is_found_dead_by_the_next_one(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        alive = HostSlot(str(tmp_path), "f")
        alive.claim(A)
        assert alive.dead == []
        process.kill()
    successor = HostSlot(str(tmp_path), "f")
    successor.claim(B)
    assert successor.dead == [UUID(int=7)]


def test_one_that_released_its_file_is_not_dead(tmp_path: Path) -> None:
    first = HostSlot(str(tmp_path), "f")
    first.claim(A)
    first.release()
    second = HostSlot(str(tmp_path), "f")
    second.claim(B)
    assert second.dead == []


def test_fleets_in_one_folder_do_not_see_each_other(tmp_path: Path) -> None:
    first = HostSlot(str(tmp_path), "f")
    first.claim(A)
    first.forget()  # its lock is gone, its id is not
    other = HostSlot(str(tmp_path), "g")
    other.claim(C)
    assert other.dead == []


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match=r"fleet\.path"):
        HostSlot(str(tmp_path), "f").claim(A)


def test_a_file_that_was_removed_is_taken_again(tmp_path: Path) -> None:
    first, second = (HostSlot(str(tmp_path), "f") for _ in range(2))
    first.claim(A)
    second.claim(B)
    for path in tmp_path.iterdir():
        path.unlink()
    second.claim(B)
    first.claim(A)
    assert first.alive() == second.alive() == {A, B}
    assert first.dead == second.dead == []


_FULL = (
    "import resource, sys; from uuid import UUID; from tenantproxy.errors import ConfigurationError;"
    " from tenantproxy.fleet.host import HostSlot;"
    " resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); slot = HostSlot(sys.argv[1], 'f')\n"
    "try: slot.claim(UUID(int=7))\n"
    "except ConfigurationError as exc: print(exc)\n"
    "other = HostSlot(sys.argv[1], 'f'); resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    "try: other.claim(UUID(int=8))\n"
    "except ConfigurationError: print(len(list(__import__('pathlib').Path(sys.argv[1]).iterdir())), 'file')\n"
)


def test_a_process_that_cannot_write_its_id_holds_no_file(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", _FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "fleet.path: cannot be used" in ended.stdout
    assert "1 file" in ended.stdout, "the first one let go of it"
