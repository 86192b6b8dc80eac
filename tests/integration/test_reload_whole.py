"""Is a reload of a whole sidecar all or nothing, whatever one part of it is, and one at a time?"""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tenantproxy import ConfigurationError, Router
from tenantproxy.config import Settings
from tenantproxy.sidecar.app import Sidecar
from tests.support.port_house import users
from tests.support.waiting import until
from tests.support.wire_client import PASSWORD, Refused, WireClient
from tests.support.world import SERVER, World

Mapping: TypeAlias = dict[str, dict[str, Any]]
LISTEN = {"listen": "127.0.0.1:0"}


def mapping_of(world: World, **changes: Any) -> Mapping:
    sections: dict[str, Any] = {
        "pg": LISTEN | {"users": users()},
        "http": dict(LISTEN),
        "admin": LISTEN | {"token": "t" * 20},
    }
    mapping = world.mapping(**sections)
    mapping["auth"] = {"key": "a" * 40}
    for section, keys in changes.items():
        mapping[section] = mapping.get(section, {}) | keys
    return mapping


def good(world: World) -> Mapping:
    """Something else in each part that can change."""
    server = world.mapping()["servers"][SERVER]
    listed = world.mapping()["tenants"]
    return mapping_of(
        world,
        pools={"max_size": 3, "acquire_timeout": 7.0},
        servers={SERVER: server | {"max_connections": 33}, "second": server | {"max_connections": 30}},
        tenants={"new": listed["row2"], "row1": listed["row1"] | {"status": "suspended"}},
        auth={"key": "b" * 40},
        resolve={"agree": ["header:X-Other"]},
        http=LISTEN | {"max_clients": 77},
        pg=LISTEN | {"users": users(late={"password": PASSWORD, "tenants": "*"}), "max_clients": 55},
    )


def bad_parts(folder: Path) -> dict[str, Callable[[Mapping], None]]:
    """What makes `good` one that cannot be taken over, by the part that is found at fault."""
    garbage = folder / "garbage.pem"
    garbage.touch(mode=0o600)
    garbage.write_text("no certificate")
    tls = {"ssl_cert_file": str(garbage), "ssl_key_file": str(garbage)}
    empty = folder / "empty"
    empty.touch(mode=0o600)

    def put(section: str, **keys: Any) -> Callable[[Mapping], None]:
        return lambda mapping: mapping[section].update(keys)

    return {
        "http.ssl": put("http", **tls),
        "admin.ssl": put("admin", **tls),
        "pg.ssl": put("pg", **tls),
        "pg.users": lambda mapping: mapping["pg"]["users"].update(bad={"password_file": str(empty), "tenants": "*"}),
        "auth": put("auth", key="short"),
        "row.key": put("row", key="short"),
        "tenants": lambda mapping: mapping["tenants"].update(ROW1=mapping["tenants"]["row2"]),
        "servers": lambda mapping: mapping["servers"].update(third=mapping["servers"][SERVER] | {"hosts": ["a:1"]}),
        "resolve": put("resolve", agree=["nothing:x"]),
    }


def state_of(sidecar: Sidecar) -> Iterator[object]:
    """What a reload changes, of each part."""
    router, pg = sidecar.router, sidecar.pg
    assert pg is not None
    assert pg._users is not None
    assert sidecar._public is not None
    yield from (id(router.settings), id(sidecar.whole), id(pg._settings), id(pg._users._grants))
    yield from (id(sidecar.auth._resolver), id(sidecar.auth.tokens), id(sidecar._marks))
    yield from (id(sidecar._public.tls), sidecar._public.places.limit, id(pg.listener._pg))
    yield [(name, budget.limit, budget.whole) for name, budget in router.budgets.items()]
    yield [getattr(router.pool_settings, name) for name in router.pool_settings.__slots__]
    yield dict(router.registry.counts() or {})


async def test_one_bad_part_of_many_changes_nothing_at_all(world: World, tmp_path: Path) -> None:
    now = [mapping_of(world)]
    async with Sidecar(
        Router(Settings.from_mapping(now[0])), drain_timeout=1.0, reread=lambda: Settings.from_mapping(now[0])
    ) as sidecar:
        assert sidecar.pg is not None
        port = sidecar.pg.listener.address[1]
        before = list(state_of(sidecar))
        for part, spoil in bad_parts(tmp_path).items():
            now[0] = good(world)
            spoil(now[0])
            with pytest.raises(ConfigurationError, match=part.partition(".")[0]):
                await sidecar.reload()
            assert list(state_of(sidecar)) == before, part
        with pytest.raises(Refused):
            await WireClient.connect(port, "row1", "late")
        client = await WireClient.connect(port, "row1")
        client.abort()
        now[0] = good(world)
        assert {"pools.max_size", "pg.users.late", "auth.key", "servers.second"} <= set(await sidecar.reload())
        assert all(one != other for one, other in zip(list(state_of(sidecar))[:7], before, strict=False))
        client = await WireClient.connect(port, "new", "late")
        client.abort()
        with pytest.raises(Refused):
            await WireClient.connect(port, "row1")


async def test_a_reload_during_a_reload_waits_and_reads_what_is_there_by_then(world: World) -> None:
    now, gate = [mapping_of(world)], threading.Event()
    under_way = most = 0

    def reread() -> Settings:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        found = Settings.from_mapping(now[0])
        assert gate.wait(30)
        under_way -= 1
        return found

    async with Sidecar(Router(Settings.from_mapping(now[0])), drain_timeout=1.0, reread=reread) as sidecar:
        now[0] = mapping_of(world, pools={"max_size": 4})
        first = asyncio.create_task(sidecar.reload())
        await until(lambda: under_way == 1, "the first has read")
        now[0] = mapping_of(world, pools={"max_size": 5})
        others = [asyncio.create_task(sidecar.reload()) for _ in range(3)]
        await asyncio.sleep(0)
        others[0].cancel()
        gate.set()
        assert list(await first) == ["pools.max_size"]
        assert list(await others[1]) == ["pools.max_size"]
        assert list(await others[2]) == []
        assert (sidecar.router.pool_settings.max_size, most) == (5, 1)


def of_ours() -> Counter[str]:
    """How many objects of our own types there are."""
    gc.collect()
    return Counter(
        f"{type(each).__module__}.{type(each).__qualname__}"
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("tenantproxy.")
    )


async def test_what_reloads_have_replaced_is_not_kept(world: World) -> None:
    now = [mapping_of(world)]
    async with Sidecar(
        Router(Settings.from_mapping(now[0])), drain_timeout=1.0, reread=lambda: Settings.from_mapping(now[0])
    ) as sidecar:
        counts = []
        for number in range(9):
            pools, auth = {"max_size": 3 + number % 2}, {"key": "ab"[number % 2] * 40}
            now[0] = mapping_of(world, pools=pools, auth=auth, http=LISTEN | {"max_clients": 50 + number % 2})
            assert await sidecar.reload()
            counts.append(of_ours())
        more = counts[-1] - counts[2]  # the first ones have what is made once; connections come and go meanwhile
        assert not {name: count for name, count in more.items() if count >= 6}, "of six reloads"
