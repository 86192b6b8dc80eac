"""Is a DSN taken apart, and refused with its wrong part and without its password?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.init.dsn import parse_dsn


def test_all_parts_of_a_dsn_are_understood() -> None:
    given = parse_dsn("postgres://us%40er:p%3Aw@db.internal:6000/my%20db?sslmode=require&sslrootcert=/ca.pem", {})
    assert (given.user, given.password, given.host, given.port) == ("us@er", "p:w", "db.internal", 6000)
    assert (given.database, given.ssl, given.ssl_root_cert_file) == ("my db", "require", "/ca.pem")
    assert given.section().host == "db.internal"


def test_what_a_dsn_leaves_out_comes_from_the_environment() -> None:
    environment = {"PGHOST": "/run/pg", "PGPORT": "6001", "PGUSER": "ann", "PGPASSWORD": "secret"}
    given = parse_dsn("postgresql:///app", environment)
    assert (given.user, given.password, given.host, given.port) == ("ann", "secret", "/run/pg", 6001)
    assert "secret" not in repr(given)


def test_how_to_encrypt_comes_from_the_environment_where_a_dsn_is_silent() -> None:
    environment = {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/ca.pem"}
    given = parse_dsn("postgresql://ann@db/app", environment)
    assert (given.ssl, given.ssl_root_cert_file) == ("verify-full", "/ca.pem")
    assert parse_dsn("postgresql://ann@db/app?sslmode=require", environment).ssl == "require"


def test_an_authority_is_found_from_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = parse_dsn("postgresql://ann@db/app?sslrootcert=ca.pem", {})
    assert given.ssl_root_cert_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("app", "is no PostgreSQL URL"),
        ("host=db user=app password=hidden", "is no PostgreSQL URL"),
        ("mysql://app:hidden@db/app", "is no PostgreSQL URL"),
        ("postgresql://app:hidden@db", "names no database"),
        ("postgresql://db/app", "names no user"),
        ("postgresql://app:hidden@a,b/app", "several hosts"),
        ("postgresql://app:hidden@db:port/app", "port that is no number"),
        ("postgresql://app:hidden@db:70000/app", "port that is no number"),
        ("postgresql://app:hidden@db/app?sslmode=never", "unknown sslmode"),
        ("postgresql://app:hidden@db/app?passfile=x", "parameter 'passfile'"),
    ],
    ids=range(10),
)
def test_a_wrong_part_of_a_dsn_is_named_and_no_password(dsn: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_dsn(dsn, {})
    assert said in str(refused.value)
    assert "hidden" not in str(refused.value)
