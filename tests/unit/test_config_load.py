"""Where do settings come from, and which source wins? Files, variables and flags; and what a broken one says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tenantproxy.config import load
from tenantproxy.errors import ConfigurationError
from tenantproxy.model import TenantStatus

TOML = """
[main]
server = "Primary"
database = "main"
[servers.Primary]
user = "app"
password_file = "pg"
[registry]
source = "file"
[pools]
max_size = 5
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TENANTPROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "pg").write_text("from-file\n")
    path = tmp_path / "tenantproxy.toml"
    path.write_text(TOML)
    return path


def problem_of(path: Path, **kwargs: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(path, **kwargs)  # type: ignore[arg-type]
    assert caught.value.source == str(path)
    return str(caught.value)


def test_a_flag_wins_over_the_environment_and_that_over_the_file_and_that_over_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (load(file).pools.max_size, load(file).pools.max_pools) == (5, 100)
    monkeypatch.setenv("TENANTPROXY_POOLS__MAX_SIZE", "6")
    assert load(file).pools.max_size == 6
    assert load(file, overrides={"pools.max_size": "7"}).pools.max_size == 7
    assert load(file, overrides={"pools": {"max_size": 8}, "http.listen": None}).pools.max_size == 8


def test_variables_are_read_as_their_keys_need(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTPROXY_ROW__SIGNED", "false")
    monkeypatch.setenv("TENANTPROXY_POOLS__IDLE_TIMEOUT", "1.5")
    monkeypatch.setenv("TENANTPROXY_SERVERS__PRIMARY__SEARCH_PATH", "app,public")
    monkeypatch.setenv("TENANTPROXY_HTTP__TRUSTED_PROXIES", '["10.0.0.0/8"]')
    monkeypatch.setenv("TENANTPROXY_SERVERS__PRIMARY__USER", "12345")
    monkeypatch.setenv("TENANTPROXY_SERVERS__PRIMARY__SSL", "require")
    monkeypatch.setenv("TENANTPROXY_TENANTS__ACME__ISOLATION", "database")
    monkeypatch.setenv("TENANTPROXY_TENANTS__ACME__DATABASE", "acme")
    monkeypatch.setenv("TENANTPROXY_TENANTS__ACME__STATUS", "paused")
    settings = load(file)
    assert (settings.row.signed, settings.pools.idle_timeout) == (False, 1.5)
    assert settings.servers["Primary"].search_path == ("app", "public")
    assert settings.http.trusted_proxies == ("10.0.0.0/8",)
    assert settings.servers["Primary"].user == "12345"
    assert type(settings.servers["Primary"].user) is str
    assert settings.servers["Primary"].ssl == "require"
    assert settings.tenants["acme"].status is TenantStatus.PAUSED


def test_everything_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTPROXY_MAIN__SERVER", "db")
    monkeypatch.setenv("TENANTPROXY_MAIN__DATABASE", "main")
    monkeypatch.setenv("TENANTPROXY_SERVERS__DB__USER", "app")
    monkeypatch.setenv("TENANTPROXY_SERVERS__DB__PASSWORD", "hunter2")
    settings = load()
    assert settings.servers["db"].password is not None
    assert settings.servers["db"].password.read() == "hunter2"


def test_a_secret_from_above_replaces_its_other_forms_below(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTPROXY_SERVERS__PRIMARY__PASSWORD", "from-variable")
    secret = load(file).servers["Primary"].password
    assert secret is not None
    assert secret.read() == "from-variable"


def test_a_variable_without_a_section_is_not_ours(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTPROXY_CONFIG", "x")
    monkeypatch.setenv("TENANTPROXY_PORT_8080_TCP", "tcp://10.0.0.1:8080")
    assert load(file).pools.max_size == 5


def test_a_wrong_variable_is_named_in_the_problem(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANTPROXY_POOLS__MAX_SISE", "6")
    monkeypatch.setenv("TENANTPROXY_POOLS__MAX_POOLS", "many")
    text = problem_of(file)
    assert "pools.max_sise: is unknown (from TENANTPROXY_POOLS__MAX_SISE); did you mean max_size?" in text
    assert "pools.max_pools: must be a whole number, not text (from TENANTPROXY_POOLS__MAX_POOLS)" in text
    assert "many" not in text


def test_a_relative_path_starts_at_the_folder_of_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    secret = load("../tenantproxy.toml").servers["Primary"].password
    assert secret is not None
    assert secret.read() == "from-file"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "No such file" in problem_of(tmp_path / "nowhere.toml")


def test_a_folder_is_told(tmp_path: Path) -> None:
    assert "Is a directory" in problem_of(tmp_path)


def test_a_syntax_error_names_the_line(file: Path) -> None:
    file.write_text(TOML + "\n[http\nlisten = 3\n")
    text = problem_of(file)
    assert "is not valid TOML" in text
    assert f"line {TOML.count(chr(10)) + 2}" in text


def test_a_key_given_twice_is_a_syntax_error(file: Path) -> None:
    file.write_text(TOML + "max_size = 6\n")
    assert "is not valid TOML" in problem_of(file)


def test_bytes_that_are_not_utf8_name_the_line(file: Path) -> None:
    file.write_bytes(TOML.encode() + b"# caf\xe9\n")
    assert f"is not UTF-8 (at line {TOML.count(chr(10)) + 1})" in problem_of(file)


def test_a_secret_that_is_missing_or_empty_is_told_with_its_path(file: Path, tmp_path: Path) -> None:
    (tmp_path / "pg").write_text("\n")
    assert "servers.Primary.password_file: is empty" in problem_of(file)
    (tmp_path / "pg").unlink()
    text = problem_of(file)
    assert f"the file {tmp_path / 'pg'} cannot be read (No such file or directory)" in text
    assert load(file, secrets=False).servers["Primary"].password is not None


@pytest.mark.parametrize("levels", [30, 600, 100_000])
@pytest.mark.parametrize("inner", ['{"a":', "["], ids=["tables", "lists"])
def test_a_table_of_the_environment_that_is_nested_too_deeply_is_a_problem_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, levels: int, inner: str
) -> None:
    end = {"{": "}", "[": "]"}[inner[0]]
    monkeypatch.setenv("TENANTPROXY_SERVERS__PRIMARY", '{"x":' + inner * levels + "1" + end * levels + "}")
    with pytest.raises(ConfigurationError, match="TENANTPROXY_SERVERS__PRIMARY: is JSON that is nested too deeply"):
        load()
