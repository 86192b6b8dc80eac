"""Are another issuer's keys fetched as rarely, as carefully and as often as they must be? A real server, real TLS."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tenantproxy.auth.jwks import MAX_BYTES, Jwks, read_keys
from tenantproxy.auth.keys import KeysUnavailable
from tenantproxy.auth.tokens import Tokens
from tenantproxy.config import Auth
from tenantproxy.errors import AuthError, ConfigurationError
from tests.support.authority import self_signed
from tests.support.waiting import until

ISSUER: Final = "https://issuer.example/"
NOW: Final = 1_800_000_000.0
SIGNERS: Final[dict[str, ec.EllipticCurvePrivateKey]] = {
    kid: ec.generate_private_key(ec.SECP256R1()) for kid in ("k1", "k2", "k3")
}


def jwk(kid: str, key: Any = None, **more: Any) -> dict[str, Any]:
    """A public key as issuers publish it."""
    public = (key or SIGNERS[kid]).public_key()
    algorithm = {"ec": "ES256", "rsa": "RS256", "ed25519": "EdDSA"}[type(public).__module__.rpartition(".")[2]]
    shown: dict[str, Any] = jwt.PyJWS().get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return shown | {"kid": kid, "use": "sig", "alg": algorithm} | more


@dataclass(slots=True)
class Issuer:
    """An HTTP server that says what `answer` says, and counts who asks."""

    url: str = ""
    asked: int = 0
    seen: list[str] = field(default_factory=list)
    kids: tuple[str, ...] = ("k1",)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Callable[[], web.StreamResponse] | None = None

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.seen.append(request.path)
        await self.gate.wait()
        if self.answer is not None:
            return self.answer()
        return web.json_response({"keys": [jwk(kid) for kid in self.kids]})


@dataclass(slots=True)
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


async def serving(issuer: Issuer, trust: ssl.SSLContext | None = None) -> web.AppRunner:
    app = web.Application()
    app.router.add_get("/{path:.*}", issuer.serve)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=trust)
    await site.start()
    port = runner.addresses[0][1]
    issuer.url = f"{'https' if trust else 'http'}://127.0.0.1:{port}/jwks.json"
    issuer.gate.set()
    return runner


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer()
    runner = await serving(made)
    yield made
    made.gate.set()
    await runner.cleanup()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def jwks(issuer: Issuer, clock: Clock) -> AsyncIterator[Jwks]:
    made = Jwks(issuer.url, "ES256", allow_loopback=True, clock=clock)
    yield made
    await made.close()


def token(kid: str | None = "k1", signer: str = "k1", **claims: Any) -> str:
    body = {"iss": ISSUER, "aud": "us", "sub": "7", "iat": NOW, "exp": NOW + 600, "tenant": "acme"} | claims
    return jwt.encode(body, SIGNERS[signer], "ES256", headers={} if kid is None else {"kid": kid})


def tokens(keys: Jwks, wall: Callable[[], float] = lambda: NOW) -> Tokens:
    auth = Auth.model_validate({"algorithm": "ES256", "jwks_url": "https://x/", "issuer": ISSUER, "audience": "us"})
    return Tokens(auth, tenants=None, keys=keys, clock=wall)


async def test_a_token_of_the_issuer_is_good_and_its_keys_are_fetched_once(issuer: Issuer, jwks: Jwks) -> None:
    verifier = tokens(jwks)
    assert issuer.asked == 0
    for one in (token(), token(), token(kid=None)):
        assert (await verifier.verify(one))["tenant"] == "acme"
    assert issuer.asked == 1


async def test_many_at_once_ask_the_issuer_once(issuer: Issuer, jwks: Jwks) -> None:
    issuer.gate.clear()
    verifier = tokens(jwks)
    waiting = [asyncio.create_task(verifier.verify(token(n=n))) for n in range(50)]
    quitter = waiting.pop()
    await until(lambda: issuer.asked, "the issuer is asked")
    quitter.cancel()
    issuer.gate.set()
    assert len(await asyncio.gather(*waiting)) == 49
    assert issuer.asked == 1


async def test_an_unknown_kid_asks_again_after_five_seconds_and_not_before(
    issuer: Issuer, jwks: Jwks, clock: Clock
) -> None:
    verifier = tokens(jwks)
    await verifier.verify(token())
    issuer.kids = ("k1", "k2")
    clock.now += 5
    assert (await verifier.verify(token("k2", "k2")))["sub"] == "7"
    assert issuer.asked == 2
    for n in range(100):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(token(f"kid {n}", "k1"))
    assert issuer.asked == 2
    clock.now += 5
    with pytest.raises(AuthError) as unknown:
        await verifier.verify(token("still unknown"))
    assert (unknown.value.http_status, issuer.asked) == (401, 3)


async def test_a_token_of_a_new_key_is_never_called_wrong(issuer: Issuer, jwks: Jwks, clock: Clock) -> None:
    verifier = tokens(jwks)
    await verifier.verify(token())
    issuer.kids = ("k1", "k2")
    clock.now += 2
    with pytest.raises(KeysUnavailable) as early:
        await verifier.verify(token("k2", "k2"))
    assert (early.value.http_status, early.value.retry_after, issuer.asked) == (503, 3.0, 1)
    clock.now += 3
    assert await verifier.verify(token("k2", "k2"))


async def test_a_kid_that_a_fetch_did_not_have_is_wrong_at_once(issuer: Issuer, jwks: Jwks) -> None:
    verifier = tokens(jwks)
    for _ in range(3):
        with pytest.raises(AuthError) as unknown:
            await verifier.verify(token("gone", "k1"))
        assert unknown.value.http_status == 401
    assert issuer.asked == 1


async def test_a_fetch_that_failed_is_repeated_when_callers_were_told(issuer: Issuer, jwks: Jwks, clock: Clock) -> None:
    verifier = tokens(jwks)
    issuer.answer = lambda: web.Response(status=500)
    with pytest.raises(KeysUnavailable):
        await verifier.verify(token())
    with pytest.raises(KeysUnavailable) as down:
        await verifier.verify(token())
    assert issuer.asked == 1
    issuer.answer = None
    clock.now += down.value.retry_after or 0.0
    assert await verifier.verify(token())


async def test_a_new_key_while_the_issuer_fails_is_not_called_wrong(issuer: Issuer, jwks: Jwks, clock: Clock) -> None:
    verifier = tokens(jwks)
    await verifier.verify(token())
    issuer.answer = lambda: web.Response(status=500)
    clock.now += 60
    for _ in range(2):
        with pytest.raises(KeysUnavailable):
            await verifier.verify(token("k2", "k2"))
    assert await verifier.verify(token(n=1))
    assert issuer.asked == 2


async def test_keys_are_asked_for_again_after_ten_minutes(issuer: Issuer, jwks: Jwks, clock: Clock) -> None:
    verifier = tokens(jwks)
    await verifier.verify(token())
    clock.now += 599
    await verifier.verify(token(n=1))
    assert issuer.asked == 1
    clock.now += 2
    await verifier.verify(token(n=2))
    assert issuer.asked == 2


async def test_a_key_that_the_issuer_withdrew_takes_cached_tokens_with_it(
    issuer: Issuer, jwks: Jwks, clock: Clock
) -> None:
    verifier = tokens(jwks)
    old = token()
    await verifier.verify(old)
    issuer.kids = ("k2",)
    clock.now += 601
    await verifier.verify(token("k2", "k2"))
    with pytest.raises(AuthError):
        await verifier.verify(old)


async def test_a_cached_token_does_not_hide_that_its_key_was_withdrawn(
    issuer: Issuer, jwks: Jwks, clock: Clock
) -> None:
    wall = Clock(NOW)
    verifier = tokens(jwks, wall)
    old = token()
    await verifier.verify(old)
    issuer.kids = ("k2",)
    clock.now += 601
    wall.now += 301
    with pytest.raises(AuthError):
        await verifier.verify(old)


async def test_while_the_issuer_fails_its_last_keys_are_served_for_a_day(
    issuer: Issuer, jwks: Jwks, clock: Clock
) -> None:
    verifier = tokens(jwks)
    await verifier.verify(token())
    issuer.answer = lambda: web.Response(status=503)
    clock.now += 601
    for n in range(5):
        assert await verifier.verify(token(n=n))
    assert issuer.asked == 2
    clock.now += 86_400
    with pytest.raises(KeysUnavailable) as refused:
        await verifier.verify(token(n=9))
    assert (refused.value.http_status, refused.value.retryable) == (503, True)
    issuer.answer = None
    clock.now += 31
    assert await verifier.verify(token(n=9))


def too_large() -> web.StreamResponse:
    keys = {"keys": [jwk("k1")], "padding": "x" * MAX_BYTES}
    return web.json_response(keys)


def packed() -> web.StreamResponse:
    body = gzip.compress(json.dumps({"keys": [jwk("k1")], "padding": "x" * 50_000_000}).encode())
    return web.Response(body=body, headers={"Content-Encoding": "gzip"})


def redirecting() -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "/elsewhere"})


ANSWERS: dict[str, Callable[[], web.StreamResponse]] = {
    "an error": lambda: web.Response(status=500),
    "another status": lambda: web.json_response({"keys": [jwk("k1")]}, status=203),
    "a redirect": redirecting,
    "too large": too_large,
    "a bomb": packed,
    "no JSON": lambda: web.Response(text="<html>"),
    "a list": lambda: web.json_response([jwk("k1")]),
    "no keys": lambda: web.json_response({"keys": []}),
    "keys of another kind": lambda: web.json_response({"keys": [jwk("k1", rsa.generate_private_key(65537, 2048))]}),
    "101 keys": lambda: web.json_response({"keys": [jwk("k1")] * 101}),
    "keys twice": lambda: web.Response(text=json.dumps({"keys": []})[:-1] + f', "keys": [{json.dumps(jwk("k1"))}]}}'),
    "nested deeply": lambda: web.Response(text='{"keys": ' + "[" * 100_000 + "]" * 100_000 + "}"),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_that_is_no_key_set_is_no_answer(issuer: Issuer, jwks: Jwks, kind: str) -> None:
    issuer.answer = ANSWERS[kind]
    with pytest.raises(KeysUnavailable):
        await tokens(jwks).verify(token())
    assert issuer.seen == ["/jwks.json"]


async def test_an_issuer_that_says_nothing_is_not_waited_for_long(issuer: Issuer, clock: Clock) -> None:
    issuer.gate.clear()
    keys = Jwks(issuer.url, "ES256", allow_loopback=True, timeout=0.05, clock=clock)
    with pytest.raises(KeysUnavailable):
        await tokens(keys).verify(token())


async def test_closing_ends_a_fetch_and_leaves_no_task(issuer: Issuer, jwks: Jwks) -> None:
    issuer.gate.clear()
    waiting = asyncio.create_task(tokens(jwks).verify(token()))
    await until(lambda: issuer.asked, "the issuer is asked")
    await jwks.close()
    with pytest.raises(KeysUnavailable):
        await waiting
    assert not [task for task in asyncio.all_tasks() if "jwks" in task.get_name()]


@pytest.mark.parametrize(
    "url",
    ["http://issuer.example/jwks", "file:///etc/passwd", "https:///jwks", "ftp://x/", "https://u:p@x/", "", "https://"],
)
def test_only_https_is_asked(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https"):
        Jwks(url, "ES256", allow_loopback=True)
    with pytest.raises(ConfigurationError, match="https"):
        Jwks("http://127.0.0.1/jwks", "ES256")


async def test_a_certificate_that_nobody_vouches_for_is_not_believed(tmp_path: Path, clock: Clock) -> None:
    served, trusted = certificate(tmp_path)
    issuer = Issuer()
    runner = await serving(issuer, served)
    try:
        with pytest.raises(KeysUnavailable):
            await tokens(Jwks(issuer.url, "ES256", clock=clock)).verify(token())
        assert issuer.asked == 0
        assert await tokens(Jwks(issuer.url, "ES256", clock=clock, trust=trusted)).verify(token())
    finally:
        await runner.cleanup()


def certificate(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context for 127.0.0.1, and one that trusts it."""
    pair = self_signed(folder, "127.0.0.1")
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(pair.certificate, pair.key)
    return served, ssl.create_default_context(cafile=str(pair.certificate))


RSA: Final = rsa.generate_private_key(65537, 2048)
ED: Final = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize(("algorithm", "kid"), [("RS256", "r"), ("ES256", "k1"), ("EdDSA", "e")])
def test_of_a_mixed_set_only_the_keys_of_the_configured_algorithm_are_read(algorithm: str, kid: str) -> None:
    keys = [jwk("r", RSA), jwk("k1"), jwk("e", ED), {"kty": "oct", "k": "AAAA", "kid": "o"}, "nonsense", None]
    assert list(read_keys(json.dumps({"keys": keys}).encode(), algorithm)) == [kid]


UNFIT: dict[str, dict[str, Any]] = {
    "for encryption": jwk("x", RSA, use="enc"),
    "for another algorithm": jwk("x", RSA, alg="RS512"),
    "that may not verify": jwk("x", RSA, key_ops=["sign"]),
    "whose operations are text": jwk("x", RSA, key_ops="verify"),
    "that is private": jwk("x", RSA, d="AQAB"),
    "of 1024 bits": jwk("x", rsa.generate_private_key(65537, 1024)),
    "of 16,384 bits": jwk("x", RSA, n="_" + "A" * 2730),
    "with the exponent 1": jwk("x", RSA, e="AQ"),
    "with an even exponent": jwk("x", RSA, e="Ag"),
    "without a modulus": {k: v for k, v in jwk("x", RSA).items() if k != "n"},
    "with a modulus of another kind": jwk("x", RSA, n=[1]),
    "with a kid of another kind": jwk("x", RSA) | {"kid": 7},
    "with a very long kid": jwk("x" * 300, RSA),
    "with a curve": jwk("x", RSA, crv="P-256"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_key_is_passed_over(kind: str) -> None:
    good = jwk("good", RSA)
    assert list(read_keys(json.dumps({"keys": [UNFIT[kind], good]}).encode(), "RS256")) == ["good"]
    with pytest.raises(ValueError, match="no usable key"):
        read_keys(json.dumps({"keys": [UNFIT[kind]]}).encode(), "RS256")


def test_of_two_keys_with_one_name_neither_is_believed() -> None:
    keys = [jwk("k1"), jwk("k1", SIGNERS["k2"]), jwk("k3")]
    assert list(read_keys(json.dumps({"keys": keys}).encode(), "ES256")) == ["k3"]
