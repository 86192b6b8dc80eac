"""What may a client send to a model of a server? Scripts: segments of any messages, cut where it must wait."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support import model_server as pg
from tests.support.model_server import SYNC, ModelServer, query, run

__all__ = ["alone", "messages", "scripts", "segments"]

NAMES = (b"a", b"b")
TEXTS = (b"rows 1", b"rows 3", b"fail", b"begin", b"commit", b"rollback", b"SET", b"")
COPIES = (b"copy in", b"copy out", b"copy in;rows 1", b"rows 1;copy in;copy in")
ENDS = (pg.DONE, pg.data(b"wrong\n"), pg.fail(), pg.data() + pg.DONE)


@st.composite
def messages(draw: st.DrawFn, *, is_alone: bool = True) -> bytes:
    """Some of one segment. A statement without a name is prepared where it is bound.

    `is_alone`: an answer is waited for behind it. Else what becomes of a name must be guessed when more is sent under
    it than is answered: then each name has one text here, and is not taken back. No two names have the same text: what
    one of them has prepared would serve the other, too.
    """
    name = draw(st.sampled_from(NAMES))
    texts = TEXTS[NAMES.index(name) :: len(NAMES)]
    text = draw(st.sampled_from(texts if is_alone else texts[:1]))
    possible = [
        run(name),
        pg.parse(name, text),
        pg.parse(name, text) + run(name),
        pg.describe(name),
        pg.parse(b"", text) + run(),
        pg.parse(b"", b"bad"),
        pg.parse(b"", b"copy out") + run(),
        pg.FLUSH,
    ]
    if is_alone:
        possible += [pg.close(name), pg.close(name) + pg.parse(name, text) + run(name)]
        possible += [pg.parse(b"", b"DEALLOCATE " + name) + run(), pg.parse(b"", b"DEALLOCATE ALL") + run()]
    return draw(st.sampled_from(possible))


@st.composite
def segments(draw: st.DrawFn, *, is_alone: bool) -> list[bytes]:
    """What a client may send in one go, up to where it must wait for an answer."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return [b"".join(draw(st.lists(messages(is_alone=is_alone), max_size=5))) + SYNC]
    if kind < 8:
        return [query(draw(st.sampled_from((*TEXTS, b"rows 1;fail;rows 1", b"copy out"))))]
    if kind == 8:
        return [pg.function()]
    copy, end = draw(st.sampled_from(COPIES)), draw(st.sampled_from(ENDS))
    lines = pg.data() * draw(st.integers(0, 3))
    if draw(st.booleans()):
        return [pg.parse(b"", b"copy in") + run() + SYNC, lines, end, SYNC]
    return [query(copy), *[lines + end] * copy.count(b"copy in")]


@st.composite
def scripts(draw: st.DrawFn) -> list[bytes]:
    """What one client sends; between two of these it waits until all is answered."""
    steps: list[bytes] = []
    for pipelined in draw(st.lists(st.integers(1, 3), max_size=6)):
        waiting = b""
        for _ in range(pipelined):
            parts = draw(segments(is_alone=pipelined == 1))
            waiting += parts[0]
            if len(parts) > 1:
                steps += [waiting, *parts[1:]]
                waiting = b""
        steps.append(waiting)
    return [step for step in steps if step]


def alone(script: list[bytes]) -> bytes:
    server = ModelServer()
    return b"".join(server.feed(step) for step in script)
