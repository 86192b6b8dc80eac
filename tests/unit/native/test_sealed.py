"""Is TLS read and written one record at a time, and are those counted that are its own? On both paths."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import pytest

from tenantproxy.connect.tls_records import LONGEST_RECORD, SAID_BY_TLS, SAID_BY_TLS_AT_ONCE, first_record
from tenantproxy.connect.tls_transport import TlsTransport
from tests.support.waiting import until
from tests.unit.native.test_conn import Pair

OWN = 22


def record(payload: bytes, kind: int = 23) -> bytes:
    return bytes([kind, 3, 3]) + len(payload).to_bytes(2, "big") + payload


class FakeBio:
    """Notes what it is given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.data = b""

    @property
    def pending(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> int:
        self.given.append(bytes(data))
        self.data += data
        return len(data)

    def read(self) -> bytes:
        data, self.data = self.data, b""
        return data


class FakeSession:
    """Encrypts nothing: what it reads is what stands in a record, unless that is TLS's own."""

    context = None

    def __init__(self) -> None:
        self.incoming, self.outgoing = FakeBio(), FakeBio()

    def read(self, size: int, buffer: memoryview | None = None) -> Any:
        data = self.incoming.read()
        if not data or data[0] == OWN:
            raise ssl.SSLWantReadError
        if buffer is None:
            return data[5:]
        buffer[: len(data) - 5] = data[5:]
        return len(data) - 5

    def write(self, data: bytes) -> int:
        return self.outgoing.write(data)

    def unwrap(self) -> None:
        pass


class Sealed(Pair):
    """A transport that encrypts by a fake session."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.session = session = FakeSession()
        bios: Any = session.incoming, session.outgoing
        self.transport: Any = self.conn
        if path == "compiled":
            self.conn.encrypt(session, *bios)  # type: ignore[arg-type]
        else:
            self.transport = TlsTransport(self.conn, session, *bios)  # type: ignore[arg-type]
        self.conn.begin()

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.far, data)


@pytest.fixture(params=["compiled", "python"])
async def sealed(request: pytest.FixtureRequest) -> Any:
    made = Sealed(request.param)
    yield made
    made.conn.abort()
    made.far.close()
    await until(lambda: bool(made.protocol.lost), "it is closed")


RECORDS = [record(b"a"), record(b"x" * 16384), record(b"", OWN), record(b"bc"), record(b"y" * 300)]
SAID = b"a" + b"x" * 16384 + b"bc" + b"y" * 300


@pytest.mark.parametrize("size", [1, 3, 7, 1000, 40_000])
async def test_openssl_gets_one_whole_record_at_a_time(sealed: Sealed, size: int) -> None:
    """Its buffers do not shrink again: a client that once read a long answer would keep as much memory for good."""
    whole = b"".join(RECORDS)
    for at in range(0, len(whole), size):
        await sealed.say(whole[at : at + size])
        if size < 1000:
            await asyncio.sleep(0)
    await until(lambda: sealed.protocol.data == SAID, "all has come")
    assert sealed.session.incoming.given == RECORDS


async def test_openssl_gets_no_more_to_encrypt_than_fits_into_a_record(sealed: Sealed) -> None:
    sealed.transport.write(bytes(100_000))
    given = sealed.session.outgoing.given
    assert max(map(len, given)) == 16384
    assert sum(map(len, given)) == 100_000


async def test_what_is_no_record_is_given_whole_to_openssl_which_says_why(sealed: Sealed) -> None:
    await sealed.say(b"GET / HTTP/1.1\r\n\r\n")
    await until(lambda: bool(sealed.session.incoming.given), "it has it")
    assert sealed.session.incoming.given == [b"GET / HTTP/1.1\r\n\r\n"]


async def test_too_much_that_is_of_tls_alone_ends_the_connection(sealed: Sealed) -> None:
    for _ in range(SAID_BY_TLS // SAID_BY_TLS_AT_ONCE):
        await sealed.say(record(b"", OWN) * SAID_BY_TLS_AT_ONCE + record(b"."))
        told = len(sealed.protocol.data)
        await until(lambda told=told: len(sealed.protocol.data) >= told, "it was read")  # type: ignore[misc]
    assert not sealed.protocol.lost
    await sealed.say(record(b"", OWN) * SAID_BY_TLS_AT_ONCE)
    await until(lambda: bool(sealed.protocol.lost), "it is closed")
    assert "over and over" in str(sealed.protocol.lost[0])


def test_where_a_record_ends() -> None:
    whole = record(b"abc")
    assert [first_record(whole[:size] + b"") for size in range(len(whole) + 1)] == [0] * 8 + [8]
    assert first_record(whole + whole) == 8
    for odd in (b"Q\x03\x03\0\x01", b"\x17\x02\x03\0\x01", b"\x17\x03\x03\xff\xff", record(bytes(LONGEST_RECORD))[:9]):
        assert first_record(odd) == len(odd)
