"""Does the command line make tokens that are good, and say of others why they are not, without showing them?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tenantproxy import Router
from tenantproxy.auth.tokens import Tokens
from tenantproxy.cli.tokens import inspect
from tenantproxy.config import load
from tests.support.bad_tokens import changed, parts
from tests.support.command import command
from tests.support.world import World

KEY = "a key that is long enough to sign with"


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    """The TOML of a world, with a key to sign with."""
    path = tmp_path / "tenantproxy.toml"
    path.write_text(f'{world.toml()}[auth]\nkey = "{KEY}"\n')
    return path


def without_key(config: Path) -> None:
    """Take the section out of the file."""
    config.write_text(config.read_text().partition("[auth]")[0])


async def token_of(config: Path, *args: str) -> str:
    ended = await command("token", "issue", "row1", "--user", "user-7", "--config", str(config), *args)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


async def inspected(config: Path, token: str, *args: str) -> dict[str, Any]:
    """What is said of it; nowhere the token itself, its signature or the key."""
    ended = await command("token", "inspect", "--json", "--config", str(config), *args, given=f"{token}\n")
    said: dict[str, Any] = json.loads(ended.stdout)
    assert ended.returncode == (0 if said["good"] else 1)
    shown = ended.stdout + ended.stderr
    assert KEY not in shown
    assert not token or token not in shown
    assert len(token.split(".")) < 3 or token.split(".")[2] not in shown
    return said


async def test_an_issued_token_opens_its_tenant_and_inspect_says_so(config: Path) -> None:
    token = await token_of(config, "--role", "admin")
    async with Router(load(config)) as router:
        claims = await Tokens(router.settings.auth, tenants=router.registry).verify(token)
        assert (claims["tid"], claims["sub"], claims["role"]) == ("row1", "user-7", "admin")
    said = await inspected(config, token)
    assert (said["good"], said["genuine"], said["why"]) == (True, True, None)
    assert said["header"] == {"alg": "HS256", "kid": "1", "typ": "JWT"}
    assert said["claims"]["sub"] == "user-7"
    assert "from now" in said["claims"]["exp"]


async def test_it_says_why_a_token_is_refused(config: Path) -> None:
    token = await token_of(config)
    header, claims = parts(token)
    key = KEY.encode()
    wanted = {
        changed(token, key, exp=claims["iat"] - 90, iat=claims["iat"] - 100): ("its time was over", True),
        changed(token, key, iss="another"): ("its iss is 'another'", False),
        changed(token, key, aud="tenantproxy:selection"): ("its aud is 'tenantproxy:selection'", False),
        changed(token, key, {"kid": "../../etc"}): ("no key for HS256 is called '../../etc'", False),
        changed(token, key, {"alg": "none"}): ("its alg is 'none'", False),
        changed(token, b"another key, as long as the first"): ("its signature is not by the key", False),
        changed(token, key, iat=claims["iat"] + 900, exp=claims["iat"] + 1800): ("do the clocks agree", False),
        changed(token, key, tep=claims["tep"] + 1): ("the tenant's epoch is", True),
        changed(token, key, tid="gone", tenant="gone"): ("does not exist any more", True),
        changed(token, key, sub=None): ("sub is missing", False),
        f"{'a' * 9000}.b.c": ("longer than 8192", False),
        "tpr_" + "a" * 64: ("it is no JWT", False),
        "": ("it is no JWT", False),
    }
    assert header["alg"] == "HS256"
    settings = load(config)
    for bad, (why, genuine) in wanted.items():
        found = await inspect(settings, bad, purpose="access")
        assert why in found["why"]
        assert (found["good"], found["genuine"]) == (False, genuine), why
        assert not bad or bad not in str(found)


async def test_it_says_that_a_token_was_revoked(config: Path, world: World) -> None:
    token = await token_of(config)
    async with world.main.connect() as admin:
        await admin.execute("SELECT tenantproxy.revoke('token', $1, 900)", parts(token)[1]["jti"])
    said = await inspected(config, token)
    assert (said["good"], said["genuine"], said["why"]) == (False, True, "it, or its session, was revoked")


async def test_what_a_forger_writes_cannot_drive_the_terminal(config: Path) -> None:
    token = await token_of(config)
    ended = await command(
        "token", "inspect", "--config", str(config), given=changed(token, b"x" * 32, sub="\x1b[2J\x9b") + "\n"
    )
    assert ended.returncode == 1
    assert "\x1b" not in ended.stdout
    assert "\x9b" not in ended.stdout


async def test_a_tenant_that_does_not_exist_and_a_missing_key_are_told(config: Path) -> None:
    ended = await command("token", "issue", "unknown", "--user", "7", "--config", str(config))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no such tenant" in ended.stderr
    without_key(config)
    ended = await command("token", "issue", "row1", "--user", "7", "--config", str(config))
    assert ended.returncode == 1
    assert "auth.key_file: is missing" in ended.stderr
