"""What stands for a MongoDB where none can be had? OP_MSG over a socket, in front of mongomock.

The driver and its bytes are the real ones; what a command does is mongomock's idea of it. For the demo and the
tests, in memory alone; needs mongomock and pymongo.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import mongomock
from bson import CodecOptions, Int64, decode, decode_all, encode

__all__ = ["MongoServer"]

_OP_MSG: Final = 2013
_OP_QUERY: Final = 2004
_PLAIN: Final[CodecOptions[dict[str, Any]]] = CodecOptions(document_class=dict)
_HELLO: Final = {
    "ismaster": True, "isWritablePrimary": True, "helloOk": True, "maxBsonObjectSize": 16777216,
    "maxMessageSizeBytes": 48000000, "maxWriteBatchSize": 100000, "minWireVersion": 0, "maxWireVersion": 21,
    "readOnly": False, "connectionId": 1, "logicalSessionTimeoutMinutes": 30, "ok": 1.0,
}  # fmt: skip


class CommandRefused(Exception):
    """What the server answers with."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(slots=True)
class MongoServer:
    """`heard`: each command that came, but those of the connection itself. `silent`: answers nothing any more.

    `streams`: it has change streams, as a replica set does, which tell of what `data` is told by `changed`.
    """

    data: mongomock.MongoClient[dict[str, Any]]
    streams: bool = False
    silent: bool = False
    heard: list[dict[str, Any]] = field(default_factory=list)
    host: str = "127.0.0.1"
    port: int = 0
    password: str = ""
    _server: asyncio.Server | None = None
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _changes: list[dict[str, Any]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    @property
    def watching(self) -> int:
        """How many change streams were opened."""
        return sum("$changeStream" in str(each.get("pipeline")) for each in self.heard)

    async def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """As a server that goes down: connections break, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    def changed(self, kind: str, document: Mapping[str, Any]) -> None:
        """Tell the change streams: `insert`, `update`, `delete`."""
        whole = {} if kind == "delete" else {"fullDocument": dict(document)}
        key = {"documentKey": {"_id": document["_id"]}}
        self._changes.append({"_id": _token(len(self._changes)), "operationType": kind, **key, **whole})
        self._changed.set()
        self._changed = asyncio.Event()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while True:
                    await self._answer(reader, writer)
        finally:
            self._writers.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length, request, _, code = struct.unpack("<iiii", await reader.readexactly(16))
        body = await reader.readexactly(length - 16)
        if code == _OP_QUERY:  # the first hello
            end = body.index(0, 4)
            reply = struct.pack("<iqii", 8, 0, 0, 1) + encode(await self._run(decode(body[end + 9 :], _PLAIN)))
            writer.write(struct.pack("<iiii", 16 + len(reply), 0, request, 1) + reply)
        elif code == _OP_MSG:
            command, is_last = _read(body)
            answer = await self._run(command)
            if self.silent:
                return
            if not is_last:
                reply = struct.pack("<I", 0) + b"\0" + encode(answer)
                writer.write(struct.pack("<iiii", 16 + len(reply), 0, request, _OP_MSG) + reply)
        await writer.drain()

    async def _run(self, command: dict[str, Any]) -> dict[str, Any]:
        name = next(iter(command))
        if name.lower() in ("hello", "ismaster"):
            return dict(_HELLO)
        if name in ("ping", "endSessions"):
            return {"ok": 1.0}
        self.heard.append(command)
        try:
            if name == "getMore":
                return await self._more(command)
            return {**_run(self, name, command), "ok": 1.0}
        except CommandRefused as exc:
            return {"ok": 0.0, "code": exc.code, "errmsg": str(exc)}
        except Exception as exc:  # noqa: BLE001 - whatever the double says becomes the server's answer
            return {"ok": 0.0, "code": 8000, "errmsg": f"{type(exc).__name__}: {exc}"}

    async def _more(self, command: dict[str, Any]) -> dict[str, Any]:
        """What a change stream has to tell since it was asked last; its cursor's number says up to where that was."""
        at = command["getMore"] - 1
        if at >= len(self._changes):
            with suppress(TimeoutError):
                async with asyncio.timeout(command.get("maxTimeMS", 1000) / 1000):
                    await self._changed.wait()
        batch = self._changes[at : at + 1]
        return {
            "cursor": {
                "id": Int64(at + 1 + len(batch)),
                "ns": "x.y",
                "nextBatch": batch,
                "postBatchResumeToken": _token(at),
            },
            "ok": 1.0,
        }


def _token(number: int) -> dict[str, str]:
    return {"_data": f"{number:08d}"}


def _read(body: bytes) -> tuple[dict[str, Any], bool]:
    """A command, with its documents; whether no answer is wanted."""
    (flags,) = struct.unpack("<I", body[:4])
    place, end, command, parts = 4, len(body) - (4 if flags & 1 else 0), dict[str, Any](), dict[str, Any]()
    while place < end:
        kind, place = body[place], place + 1
        (size,) = struct.unpack_from("<i", body, place)
        if kind == 0:
            command = decode(body[place : place + size], _PLAIN)
        else:
            zero = body.index(0, place + 4)
            parts[body[place + 4 : zero].decode()] = decode_all(body[zero + 1 : place + size], _PLAIN)
        place += size
    return {**command, **parts}, bool(flags & 2)


def _run(server: MongoServer, name: str, command: dict[str, Any]) -> dict[str, Any]:
    database = server.data[command["$db"]]
    if name == "killCursors":
        return {}
    if name == "dropDatabase":
        server.data.drop_database(command["$db"])
        return {}
    if name == "listCollections":
        return _cursor([{"name": each, "type": "collection"} for each in database.list_collection_names()])
    run = _COMMANDS.get(name)
    if run is None:
        raise CommandRefused(59, f"no such command: {name}")
    return run(server, database[command[name]], command)


def _find(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    found = of.find(command.get("filter") or {}, command.get("projection"))
    if command.get("sort"):
        found = found.sort(list(command["sort"].items()))
    return _cursor(list(found.skip(command.get("skip", 0)).limit(abs(command.get("limit", 0)))))


def _insert(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    done, errors = 0, []
    for number, document in enumerate(command["documents"]):
        try:
            of.insert_one(document)
            done += 1
        except mongomock.DuplicateKeyError as exc:
            errors.append({"index": number, "code": 11000, "errmsg": str(exc)})
            if command.get("ordered", True):
                break
    return {"n": done, **({"writeErrors": errors} if errors else {})}


def _update(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    matched, modified, upserted = 0, 0, []
    for number, one in enumerate(command["updates"]):
        options = {"upsert": one.get("upsert", False)}
        try:
            if not next(iter(one["u"]), "").startswith("$"):
                done = of.replace_one(one["q"], one["u"], **options)
            else:
                change = of.update_many if one.get("multi") else of.update_one
                done = change(one["q"], one["u"], array_filters=one.get("arrayFilters"), **options)
        except mongomock.DuplicateKeyError as exc:
            error = {"index": number, "code": 11000, "errmsg": str(exc)}
            return {"n": matched, "nModified": modified, "writeErrors": [error]}
        matched, modified = matched + done.matched_count, modified + (done.modified_count or 0)
        if done.upserted_id is not None:
            matched += 1
            upserted.append({"index": number, "_id": done.upserted_id})
    return {"n": matched, "nModified": modified, **({"upserted": upserted} if upserted else {})}


def _delete(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    each = [(of.delete_one if one["limit"] else of.delete_many)(one["q"]) for one in command["deletes"]]
    return {"n": sum(one.deleted_count for one in each)}


def _aggregate(server: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    stages = command["pipeline"]
    if stages and "$changeStream" in stages[0]:
        if not server.streams:
            raise CommandRefused(40573, "The $changeStream stage is only supported on replica sets")
        at = len(server._changes)
        return {"cursor": {"id": Int64(at + 1), "ns": "x.y", "firstBatch": [], "postBatchResumeToken": _token(at)}}
    return _cursor(list(of.aggregate(stages)))


def _find_and_modify(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    sort = list(command["sort"].items()) if command.get("sort") else None
    asked = {"projection": command.get("fields"), "sort": sort}
    if command.get("remove"):
        return {"value": of.find_one_and_delete(command["query"], **asked)}
    whole = not next(iter(command["update"]), "").startswith("$")
    change = of.find_one_and_replace if whole else of.find_one_and_update
    options = {"upsert": command.get("upsert", False), "return_document": command.get("new", False)}
    return {"value": change(command["query"], command["update"], **asked, **options)}


def _distinct(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    return {"values": of.distinct(command["key"], command.get("query") or {})}


def _create_indexes(_: MongoServer, of: Any, command: dict[str, Any]) -> dict[str, Any]:
    for index in command["indexes"]:
        of.create_index(list(index["key"].items()), unique=index.get("unique", False), name=index["name"])
    return {}


_COMMANDS: Final = {
    "find": _find, "insert": _insert, "update": _update, "delete": _delete, "aggregate": _aggregate,
    "findAndModify": _find_and_modify, "distinct": _distinct, "createIndexes": _create_indexes,
}  # fmt: skip


def _cursor(batch: list[Any]) -> dict[str, Any]:
    return {"cursor": {"id": Int64(0), "ns": "x.y", "firstBatch": batch}}
