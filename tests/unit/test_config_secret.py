"""Is a secret read again each time, and never shown?"""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from tenantproxy.config import Secret, role_password
from tenantproxy.config.secret import MAX_SECRET_BYTES
from tenantproxy.errors import ConfigurationError


def test_a_rotated_file_is_read_anew_without_its_trailing_newline(tmp_path: Path) -> None:
    path = tmp_path / "pg"
    secret = Secret.file(path)
    path.write_text("one\n")
    assert (secret.read(), secret.read_bytes()) == ("one", b"one")
    path.write_text("two\n\n")
    assert (secret.read(), secret.read_bytes()) == ("two\n", b"two\n")
    path.write_bytes(b"three\r\n")
    assert (secret.read(), secret.read_bytes()) == ("three", b"three")


def test_a_variable_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret.env("TP_SECRET")
    monkeypatch.setenv("TP_SECRET", "one")
    assert secret.read() == "one"
    monkeypatch.setenv("TP_SECRET", "zwei\N{LATIN SMALL LETTER SHARP S}")
    assert secret.read() == "zwei\N{LATIN SMALL LETTER SHARP S}"
    monkeypatch.delenv("TP_SECRET")
    with pytest.raises(ConfigurationError, match="TP_SECRET: is not set"):
        secret.read()


def test_random_bytes_that_end_in_a_newline_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff" * 31 + b"\n")
    assert len(Secret.file(path).read_bytes()) == 32
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        Secret.file(path).read()


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"x" * (MAX_SECRET_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger than"):
        Secret.file(path).read()


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        (Secret.inline("sesame"), "Secret(inline)"),
        (Secret.file("/run/secrets/pg"), "Secret(file: /run/secrets/pg)"),
        (Secret.env("PGPASSWORD"), "Secret(env: PGPASSWORD)"),
    ],
)
def test_it_shows_only_where_it_comes_from(secret: Secret, shown: str) -> None:
    assert repr(secret) == str(secret) == f"{secret}" == shown


def test_an_inline_secret_is_not_pickled_and_the_others_are_by_place() -> None:
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        pickle.dumps(Secret.inline("sesame"))
    assert "sesame" not in str(caught.value)
    assert pickle.loads(pickle.dumps(Secret.file("/x"))) == Secret.file("/x")  # noqa: S301
    assert copy.deepcopy(Secret.inline("sesame")) == Secret.inline("sesame")


def test_it_cannot_be_changed_and_equals_what_refers_to_the_same() -> None:
    secret = Secret.inline("a")
    with pytest.raises(AttributeError):
        secret.kind = "file"
    assert secret != Secret.inline("b")
    assert Secret.env("A") != Secret.file("A")
    assert len({Secret.file("/a"), Secret.file("/a"), Secret.file("/b")}) == 2


def test_a_role_password_is_the_hmac_of_server_and_role() -> None:
    # printf 'primary/acme' | openssl dgst -sha256 -mac HMAC -macopt key:kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk
    expected = "c3db3473440aff4b0536f19c0f63cf3b33f3826c4f2fa3c0cf7a1e3d29447831"
    assert role_password(b"k" * 32, "primary", "acme") == expected
    assert role_password(b"k" * 32, "second", "acme") != expected
