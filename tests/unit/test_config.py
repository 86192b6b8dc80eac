"""Does the configuration accept what is right, and say of all else which key is wrong, how, and how to fix it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from tenantproxy.config import Settings, describe, is_loopback, json_schema, listen_address, load
from tenantproxy.config.changes import is_taken_over
from tenantproxy.config.sections import Admin, Http, Pg, PgUser
from tenantproxy.config.server_sections import Server
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.model import Isolation, Limits

EXAMPLE = Path(__file__).parents[2] / "config" / "tenantproxy.toml"
CONTRACT_SECTIONS = {"schema", "fleet", "provision", "migrations", "backup", "gdpr",
    "main", "servers", "pools", "registry", "tenants", "row", "tenant_roles", "context", "signed_context", "resolve",
    "auth", "login", "http", "admin", "audit", "pg", "sql", "metrics", "log", "traces", "mongo",
}  # fmt: skip
VERIFIER = (
    "SCRAM-SHA-256$4096:EX3KwYAOFoPOorSBSndI7g==$4WOwYQAY0t+Pl2hZ0Mye/Ipuh3uZ5IbN5FfM0IrAkn0="
    ":9VdhSJDsM/Ab7VXMpD74pUWlNce/xEoho0ISRNukrq8="
)

PLAIN = {"ssl_required": "never"}
MONGO: Mapping[str, Any] = {"hosts": ["mongo.internal:27017"]}
GOOD: Mapping[str, Any] = {
    "main": {"server": "primary", "database": "main"},
    "servers": {"primary": {"user": "app", "password": "sesame-open"}},
    "registry": {"source": "file"},
    "row": {"key": "k" * 32},
}


def changed(**sections: object) -> dict[str, Any]:
    """GOOD with some sections replaced; None takes one out."""
    return {key: value for key, value in {**GOOD, **sections}.items() if value is not None}


def server(**keys: object) -> dict[str, Any]:
    return {"primary": {"user": "app", "password": "sesame-open", **keys}}


def tenants(**entries: Mapping[str, object]) -> dict[str, Any]:
    return changed(tenants=entries)


def row(database: str = "shared", **keys: object) -> dict[str, object]:
    return {"isolation": "row", "database": database, **keys}


def own(database: str, **keys: object) -> dict[str, object]:
    return {"isolation": "database", "database": database, **keys}


def schema(name: str, **keys: object) -> dict[str, object]:
    return {"isolation": "schema", "database": "shared", "schema": name, **keys}


def users(**entries: Mapping[str, object]) -> dict[str, Any]:
    return changed(pg={"users": entries}, tenants={"acme": row()})


def problems_of(mapping: Mapping[str, Any]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(mapping)
    assert caught.value.code == "configuration_error"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value.problems


# input, key of the problem, words that must appear in it
BAD = [
    ({}, "main", ["missing", "[main]"]),
    ({"servers": {}}, "main", ["missing", "server"]),
    (changed(mian={}), "mian", ["unknown", "did you mean main?"]),
    (changed(pols={"max_size": 3}), "pols", ["unknown", "did you mean pools?"]),
    (changed(pools={"max_sise": 3}), "pools.max_sise", ["unknown", "did you mean max_size?"]),
    (changed(pools={"zzz": 3}), "pools.zzz", ["unknown", "remove it", "acquire_timeout"]),
    (changed(pools=3), "pools", ["must be a table", "a number"]),
    (changed(servers=[]), "servers", ["must be a table", "a list"]),
    (changed(pools={"max_size": "10"}), "pools.max_size", ["whole number", "text"]),
    (changed(pools={"max_size": 2.5}), "pools.max_size", ["whole number"]),
    (changed(pools={"max_size": True}), "pools.max_size", ["whole number", "boolean"]),
    (changed(pools={"max_size": 0}), "pools.max_size", ["is 0", "at least 1"]),
    (changed(pools={"acquire_timeout": -1}), "pools.acquire_timeout", ["is -1", "more than 0"]),
    (changed(pools={"acquire_timeout": float("inf")}), "pools.acquire_timeout", ["must be"]),
    (changed(pools={"reset": "alwayz"}), "pools.reset", ["always, on_tenant_change", "did you mean always?"]),
    (changed(pools={"max_size": 3, "guaranteed": 4}), "pools.guaranteed", ["is 4", "max_size = 3"]),
    (changed(pools={"max_size": 201}), "pools.max_size", ["201", "servers.primary.max_connections = 200"]),
    (changed(pools={"shared_size": 201}), "pools.shared_size", ["201", "max_connections = 200"]),
    (changed(main={**GOOD["main"], "max_size": 201}), "main.max_size", ["201", "max_connections = 200"]),
    (changed(main={**GOOD["main"], "server": "primry"}), "main.server", ["'primry'", "did you mean primary?"]),
    (changed(main={**GOOD["main"], "server": "zz"}), "main.server", ["'zz'", "[servers.zz]"]),
    (changed(servers={"primary": {"password": "x"}}), "servers.primary.user", ["missing", "user ="]),
    (changed(servers={"primary": {"user": "x"}}), "servers.primary.password_file", ["no password", "password_env"]),
    (changed(servers=server(require_auth=["scram"])), "servers.primary.require_auth.0", ["scram-sha-256, md5"]),
    (changed(servers=server(admin={"user": "a"})), "servers.primary.admin.password_file", ["no password"]),
    (changed(servers=server(password=17)), "servers.primary.password", ["must be text", "a number"]),
    (changed(servers=server(password_env="X")), "servers.primary.password", ["password and password_env", "keep one"]),
    (changed(servers=server(channel_binding="require")), "servers.primary.channel_binding", ["prefer", "verify-full"]),
    (changed(servers=server(ssl="verify-ful")), "servers.primary.ssl", ["did you mean verify-full?"]),
    (changed(servers=server(ssl_cert_file="x")), "servers.primary.ssl_cert_file", ["belong together"]),
    (changed(servers=server(port=70000)), "servers.primary.port", ["70000", "65535"]),
    (changed(servers=server(host="")), "servers.primary.host", ["empty"]),
    (changed(admin={"listen": "0.0.0.0:8081", **PLAIN}), "admin.token_file", ["other machines", "token"]),
    (changed(admin={"listen": "[::]:8081", **PLAIN}), "admin.token_file", ["other machines", "127.0.0.1"]),
    (changed(admin={"listen": "ops.internal:8081", **PLAIN}), "admin.token_file", ["other machines", "127.0.0.1"]),
    (changed(admin={"hosts": ["https://ops"]}), "admin.hosts.0", ["not a host", "without a port"]),
    (changed(servers=server(max_connections=2)), "servers.primary.max_connections", ["is 2", "at least 3"]),
    (changed(servers=server(replicas=["primary"])), "servers.primary.replicas", ["itself"]),
    (changed(servers=server(replicas=["second"])), "servers.primary.replicas", ["'second'", "[servers.second]"]),
    (changed(servers=server(replicas="second")), "servers.primary.replicas", ["a list of text", "text"]),
    (changed(servers=server(replicas=[3])), "servers.primary.replicas.0", ["must be text", "a number"]),
    (changed(servers=server(hosts=["db1:5432", "db1:5432"])), "servers.primary.hosts", ["entry 1", "there twice"]),
    (changed(servers=server(hosts=["db1:70000"])), "servers.primary.hosts", ["entry 0", "1 to 65535"]),
    (changed(servers=server(hosts=["a:5432", "x://b"])), "servers.primary.hosts", ["entry 1", "db2.internal:5432"]),
    (changed(servers=server(target_session_attrs="primary")), "servers.primary.target_session_attrs", ["with hosts"]),
    (changed(servers=server(probe_database="app")), "servers.primary.probe_database", ["with hosts", "remove it"]),
    (changed(servers=server(max_replica_lag=5)), "servers.primary.max_replica_lag", ["with replicas"]),
    (
        changed(servers=server(hosts=["a:1"], target_session_attrs="standby")),
        "servers.primary.target_session_attrs",
        ["main database", "read-write"],
    ),
    (changed(registry={"source": "mongodb"}), "registry.mongodb.cluster", ["is missing", "add [mongo.clusters.main]"]),
    (
        changed(registry={"source": "mongodb", "mongodb": {"cluster": "mian"}}, mongo={"clusters": {"main": MONGO}}),
        "registry.mongodb.cluster",
        ["mian", "did you mean main?"],
    ),
    (
        changed(registry={"mongodb": {"poll": 5.0}}, mongo={"clusters": {"main": MONGO}}),
        "registry.mongodb",
        ["only read with source"],
    ),
    (
        changed(mongo={"clusters": {"main": {"hosts": ["mongodb://u:p@host"]}}}),
        "mongo.clusters.main.hosts",
        ["entry 0", "write for example"],
    ),
    (
        changed(mongo={"clusters": {"main": {**MONGO, "user": "app"}}}),
        "mongo.clusters.main",
        ["user and password belong together"],
    ),
    (changed(mongo={"database": "everyone"}), "mongo", ["must have {id} in it once"]),
    (
        changed(mongo={"clusters": {"main": MONGO}, "shared": {"admin.system.users": "tenant_id"}}),
        "mongo.shared",
        ["must be \"database.collection\""],
    ),
    (
        changed(mongo={"clusters": {"main": MONGO}, "shared": {"a.tasks": "_id"}}),
        "mongo.shared",
        ["does not name the field"],
    ),
    (
        changed(
            registry={"source": "mongodb"},
            mongo={"clusters": {"main": MONGO}, "shared": {"tenant_registry.tenants": "tenant_id"}},
        ),
        "mongo.shared",
        ["which is the registry"],
    ),
    (
        changed(registry={"source": "postgres", "redis": {"address": "redis://u:p@host"}}),
        "registry.redis.address",
        ["is a URL", "write for example"],
    ),
    (
        changed(registry={"source": "postgres", "redis": {"address": "redis.internal"}}),
        "registry.redis",
        ["has no key_file", "openssl rand"],
    ),
    (changed(registry={"source": "postgres", "redis": {"key": "k" * 32}}), "registry.redis", ["has no address"]),
    (
        changed(registry={"source": "postgres", "redis": {"address": "redis.internal", "key": "short"}}),
        "registry.redis.key",
        ["5 bytes", "at least 32"],
    ),
    (
        changed(registry={"source": "file", "redis": {"address": "redis.internal", "key": "k" * 32}}),
        "registry.redis",
        ["is of no use"],
    ),
    (changed(registry={"source": "postgress"}), "registry.source", ["did you mean postgres?"]),
    (changed(registry={"list_query": "select 1"}), "registry.query", ["missing"]),
    (changed(registry={"query": "select 1"}), "registry.list_query", ["missing", "$2"]),
    (changed(registry={"status_update": "update t set s = $2 where id = $1"}), "registry.status_update", ["query"]),
    (
        changed(registry={"query": "select $1", "list_query": "select $1, $2", "status_update": "update t set s = 1"}),
        "registry.status_update",
        ["$1", "$2"],
    ),
    (changed(registry={"source": "file", "query": "select 1"}), "registry.query", ["only read", "postgres"]),
    (changed(registry=None, tenants={"a": row()}), "tenants", ["only read", 'source = "file"']),
    (changed(row=None, tenants={"acme": row()}), "row.key_file", ["missing", "'acme'", "openssl"]),
    (changed(registry=None, row={"setting": "app.t"}), "row.key_file", ["missing", "openssl"]),
    (changed(row={"key": "short"}), "row.key", ["5 bytes", "at least 32"]),
    (changed(row={"key": "k" * 31}), "row.key", ["31 bytes", "at least 32"]),
    (changed(row={"key_file": "/nowhere/key"}), "row.key_file", ["/nowhere/key", "cannot be read"]),
    (changed(row={"key_env": "TP_UNSET"}), "row.key_env", ["TP_UNSET", "not set"]),
    (changed(row={"key": "k" * 32, "key_files": {"2": "x"}}), "row", ["exclude each other"]),
    (changed(row={"key_files": {"10": "x"}}), "row", ["one digit"]),
    (changed(row={"key": "k" * 32, "setting": "tenant"}), "row.setting", ["with a dot"]),
    (changed(row={"key": "k" * 32, "setting": "app.x; drop"}), "row.setting", ["custom setting"]),
    (changed(row={"key": "k" * 32, "proof_window": 0.5}), "row.proof_window", ["at least 1"]),
    (changed(row={"signed": False, "form": "trusted"}), "row", ["form = trusted is signed"]),
    (changed(row={"key": "k" * 32, "form": "trust"}), "row.form", ["bound, trusted"]),
    (changed(row={"key": "k" * 32, "unprotected": ["countries"]}), "row.unprotected", ["'countries'", "schema.table"]),
    (changed(row={"key": "k" * 32, "unprotected": ["*.*"]}), "row.unprotected", ["schema.*"]),
    (changed(row={"key": "k" * 32, "unprotected": ["a.b.c"]}), "row.unprotected", ["'a.b.c'"]),
    (changed(row={"key": "k" * 32, "unprotected": ["pg_catalog.x"]}), "row.unprotected", ["PostgreSQL's own"]),
    (changed(row={"key": "k" * 32, "unprotected": "public.x"}), "row.unprotected", ["a list of text"]),
    (changed(row={"key": "k" * 32, "unprotectd": []}), "row.unprotectd", ["did you mean unprotected?"]),
    (changed(schema={"common": ["public"]}), "schema.common", ["'public'", "schema.*"]),
    (changed(schema={"shared_roles": True}), "schema.shared_roles", ["did you mean shared_role?"]),
    (changed(schema={"shared_role": "yes"}), "schema.shared_role", ["true or false"]),
    (changed(shema={}), "shema", ["did you mean schema?"]),
    (changed(tenant_roles={"key": "short"}), "tenant_roles.key", ["5 bytes", "32"]),
    (changed(tenants={"acme": {"isolation": "database", "database": "d", "role": "r"}}), "tenants.acme.role",
     ["is r", "no [tenant_roles] key_file", "tenantproxy install --roles"]),
    (changed(auth={"key": "short"}), "auth.key", ["5 bytes", "32"]),
    (changed(auth={"key_files": {"k1": "/nowhere/key"}}), "auth.key_files.k1", ["/nowhere/key", "cannot be read"]),
    (changed(auth={"key": "k" * 32, "key_files": {"2": "x"}}), "auth", ["exclude each other"]),
    (changed(auth={"key_files": {"../x": "x"}}), "auth", ["key id"]),
    (changed(auth={"key": "k" * 32, "signing_kid": "2"}), "auth.signing_kid", ["not in key_files"]),
    (changed(auth={"key": "k" * 32, "algorithm": "RS256"}), "auth.algorithm", ["HS256 or EdDSA"]),
    (changed(auth={"key": "k" * 32, "jwks_url": "https://x/"}), "auth.jwks_url", ["excludes a key of our own"]),
    (changed(auth={"public_key_file": "x", "algorithm": "HS256"}), "auth.algorithm", ["never in a key set"]),
    (changed(auth={"jwks_url": "http://x/", "algorithm": "RS256"}), "auth.jwks_url", ["https"]),
    (changed(auth={"jwks_url": "https://u:p@x/", "algorithm": "RS256"}), "auth.jwks_url", ["has a user or a password"]),
    (changed(auth={"leeway": 61}), "auth.leeway", ["60"]),
    (changed(auth={"refresh_ttl": 0}), "auth.refresh_ttl", ["at least 1"]),
    (changed(context={"app.current_tenant_id": "header:X"}), "context.app.current_tenant_id", ["remove it"]),
    (changed(context={"app.tenant_proof": "header:X"}), "context.app.tenant_proof", ["remove it"]),
    (changed(context={"app.user_id": "sub"}), "context.app.user_id", ["claim:NAME"]),
    (changed(context={"user_id": "claim:sub"}), "context.user_id", ["with a dot"]),
    (changed(context={"app.x": "tenant:name"}), "context.app.x", ["tenant:id"]),
    (changed(context={"search_path": "claim:sub"}), "context.search_path", ["with a dot"]),
    (changed(context={"app.context": "claim:x"}), "context.app.context", ["remove it"]),
    (changed(signed_context={"app.context_proof": "claim:x"}), "signed_context.app.context_proof", ["remove it"]),
    (changed(signed_context={"app.role": "role"}), "signed_context.app.role", ["claim:NAME"]),
    (changed(signed_context={"application_name": "claim:x"}), "signed_context.application_name", ["in [context]"]),
    (changed(http={"listen": "8080"}), "http.listen", ["host:port", "127.0.0.1:8080"]),
    (changed(http={"listen": "::1:8080"}), "http.listen", ["brackets"]),
    (changed(http={"listen": "localhost:http"}), "http.listen", ["port"]),
    (changed(admin={"listen": "127.0.0.1:8080"}), "admin.listen", ["same address", "http.listen"]),
    (users(bi={"tenants": "*"}), "pg.users.bi", ["neither", "password"]),
    (users(bi={"tenants": "*", "password": "x", "verifier": VERIFIER}), "pg.users.bi", ["both", "password_file"]),
    (
        users(bi={"tenants": "*", "password": "x", "password_env": "X"}),
        "pg.users.bi.password",
        ["password and password_env exclude each other"],
    ),
    (users(bi={"tenants": "*", "password_env": "TENANTPROXY_NOT_SET"}), "pg.users.bi.password_env", ["is not set"]),
    (users(bi={"tenants": "*", "password": ""}), "pg.users.bi.password", ["is empty"]),
    (users(bi={"tenants": "*", "verifier": "sesame-open"}), "pg.users.bi.verifier", ["SCRAM-SHA-256$", "rolpassword"]),
    (users(bi={"tenants": "*", "verifier": "md5" + "0" * 32}), "pg.users.bi.verifier", ["md5", "rolpassword"]),
    (users(bi={"tenants": "*", "verifier": VERIFIER[:-3] + "="}), "pg.users.bi.verifier", ["base64"]),
    (users(bi={"tenants": "*", "verifier": VERIFIER.replace("4096", "0")}), "pg.users.bi.verifier", ["iterations"]),
    (users(bi={"tenants": "*", "password": "x", "pool_mod": 1}), "pg.users.bi.pool_mod", ["pool_mode?"]),
    (users(bi={"password": "x"}), "pg.users.bi", ["no tenant", "console = true"]),
    (users(bi={"password": "x", "tenants": ["*"]}), "pg.users.bi.tenants", ['tenants = "*"']),
    (users(bi={"password": "x", "tenants": ["a'b"]}), "pg.users.bi.tenants", ["not allowed"]),
    (users(bi={"password": "x", "tenants": ["acmee"]}), "pg.users.bi.tenants", ["not in [tenants]", "acme?"]),
    (users(bi={"password": "x", "tenants": 7}), "pg.users.bi.tenants", ["a list of tenants"]),
    (users(bi={"password": "x", "console": "write"}), "pg.users.bi.console", ['true, false or "read"']),
    (users(bi={"password": "x", "console": 1}), "pg.users.bi.console", ['true, false or "read"']),
    (users(jwt={"password": "x", "tenants": "*"}), "pg.users.jwt", ["access token", "another name"]),
    (users(**{"": {"password": "x", "tenants": "*"}}), "pg.users.''", ["empty"]),
    (users(**{"u" * 64: {"password": "x", "tenants": "*"}}), f"pg.users.'{'u' * 64}'", ["63"]),
    (users(**{"a\n": {"password": "x", "tenants": "*"}}), "pg.users.'a\\n'", ["printed"]),
    (changed(pg={"ssl_cert_file": "/x"}), "pg.ssl_cert_file", ["belong together"]),
    *(
        (changed(**{key: {"listen": "0.0.0.0:1", **more}}), f"{key}.ssl_cert_file", ["be encrypted", '"never"'])
        for key, more in (("pg", {}), ("http", {}), ("admin", {"token": "t" * 32}))
    ),
    (changed(http={"ssl_required": "always"}), "http.ssl_required", ["no client could connect"]),
    (changed(pg={"ssl_required": "always"}), "pg.ssl_required", ["no client could connect"]),
    (changed(pg={"ssl_min_version": "1.1"}), "pg.ssl_min_version", ["1.2"]),
    (changed(pg={"ssl_client_ca_file": "/x"}), "pg.ssl_client_ca_file", ["without TLS"]),
    (changed(pg={"ssl_crl_file": "/x"}), "pg.ssl_crl_file", ["ssl_client_ca_file"]),
    (changed(pg={"ssl_tenant_domain": "db.local"}), "pg.ssl_tenant_domain", ["only read with ssl_cert_file"]),
    (
        changed(pg={"ssl_tenant_domain": "*.db.local", "ssl_cert_file": "/x", "ssl_key_file": "/y"}),
        "pg.ssl_tenant_domain",
        ["is not a domain"],
    ),
    (changed(http={"ssl_cert_file": "/x"}), "http.ssl_cert_file", ["belong together"]),
    (changed(admin={"ssl_crl_file": "/x"}), "admin.ssl_crl_file", ["ssl_client_ca_file"]),
    (users(bi={"cert": True, "tenants": "*"}), "pg.users.bi.cert", ["ssl_client_ca_file"]),
    (users(bi={"password": "x", "cert_names": ["b"], "tenants": "*"}), "pg.users.bi.cert_names", ["cert = true"]),
    (changed(pg={"oauth_issuer": "https://id.local"}), "pg.oauth_issuer", ["[auth]"]),
    (changed(pg={"oauth_issuer": "id.local"}, auth={"key": "k" * 32}), "pg.oauth_issuer", ["https://"]),
    (changed(pg={"jwt": True}), "pg.jwt", ["[auth]"]),
    (
        changed(pg={"jwt": True, "listen": "0.0.0.0:6432", "ssl_required": "never"}, auth={"key": "k" * 32}),
        "pg.jwt",
        ["clear text", "0.0.0.0:6432", "127.0.0.1:6432"],
    ),
    (
        users(bi={"password": "x", "tenants": "*"}) | {"tenants": {"tenantproxy": row()}},
        "tenants.tenantproxy",
        ["console", "rename"],
    ),
    (tenants(a={"database": "x"}), "tenants.a.isolation", ["missing"]),
    (tenants(a={"isolation": "row"}), "tenants.a.database", ["missing"]),
    (changed(servers={**server(), "s" * 64: {"user": "app", "password": "sesame-open"}}), "servers." + "s" * 64,
     ["64 bytes", "fleet"]),
    (tenants(a=row(isolation="rows")), "tenants.a.isolation", ["database, schema, row", "did you mean row?"]),
    (tenants(a=row(status="activ")), "tenants.a.status", ["did you mean active?"]),
    (tenants(a=row(colour="red")), "tenants.a.colour", ["unknown"]),
    (tenants(a=row(server="second")), "tenants.a.server", ["'second'"]),
    (tenants(a=row(max_size=500)), "tenants.a.max_size", ["500", "max_connections = 200"]),
    (tenants(a={"isolation": "schema", "database": "x"}), "tenants.a.schema", ["needs a schema"]),
    (tenants(a=schema("pg_x")), "tenants.a.schema", ["PostgreSQL's own"]),
    (tenants(a=schema("s" * 64)), "tenants.a.schema", ["64 bytes"]),
    (tenants(a=own("d" * 64)), "tenants.a.database", ["64 bytes"]),
    (tenants(a=own("d", schema="s")), "tenants.a.schema", ["no schema of its own"]),
    (changed(tenants={"o'brien": row()}), "tenants.\"o'brien\"", ["identifier", "not allowed"]),
    (tenants(**{"x" * 64: row()}), "tenants.'" + "x" * 64 + "'", ["64 bytes"]),
    (tenants(аcme=row()), "tenants.'\\u0430cme'", ["not ASCII"]),
    (tenants(acme=row(), Acme=row()), "tenants.Acme", ["'acme'", "only by case"]),
    (tenants(a=own("one"), b=own("one")), "tenants.b.database", ["'a'", "its own database"]),
    (tenants(a=own("one"), b=own("One")), "tenants.b.database", ["'a'", "only by case"]),
    (tenants(a=own("shared"), b=row()), "tenants.a.database", ["'b'", "its own database"]),
    (tenants(a=own("main")), "tenants.a.database", ["main database"]),
    (tenants(a=schema("s"), b=schema("s")), "tenants.b.schema", ["'a'", "its own schema"]),
    (tenants(a=schema("s"), b=schema("S")), "tenants.b.schema", ["'a'", "only by case"]),
    (tenants(a=schema("s"), b=schema("t", systems={"crm": "s"})), "tenants.b.schema", ["'a'"]),
]  # fmt: skip


@pytest.mark.parametrize(("mapping", "key", "words"), BAD, ids=[f"{i}-{case[1]}" for i, case in enumerate(BAD)])
def test_a_mistake_is_told_with_its_key_the_problem_and_the_fix(
    mapping: Mapping[str, Any], key: str, words: list[str]
) -> None:
    problems = problems_of(mapping)
    found = [problem for problem in problems if problem.key == key]
    assert found, problems
    text = f"{found[0].problem}; {found[0].fix}"
    assert [word for word in words if word not in text] == [], text
    assert found[0].fix
    assert len(problems) == 1 or key in ("main", "servers"), "one mistake, one problem"


def test_all_mistakes_are_told_at_once_and_one_does_not_hide_another() -> None:
    problems = problems_of(
        {
            "main": {"server": "nope", "database": "main"},
            "servers": {"primary": {"user": "app"}, "second": {"usr": 1, "replicas": ["second"]}},
            "pools": {"max_size": "ten"},
            "registry": {"source": "file"},
            "tenants": {"a": row(), "b": {"isolation": "rows"}, "A": row()},
            "http": {"listen": "8080"},
            "admin": {"token_file": "/nowhere/token"},
        }
    )
    keys = {problem.key for problem in problems}
    assert keys >= {
        "main.server", "servers.primary.password_file", "servers.second.user", "servers.second.usr", "pools.max_size",
        "tenants.b.isolation", "tenants.b.database", "tenants.A", "http.listen", "row.key_file",
        "admin.token_file",
    }  # fmt: skip


def test_a_secret_is_in_no_error_repr_description_or_serialised_form() -> None:
    mapping = changed(pools={"max_size": "x"}, servers=server(port="y"))
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(mapping)
    with pytest.raises(ValidationError) as raw:
        Settings(**mapping)
    settings = Settings.from_mapping(GOOD)
    for shown in (
        str(caught.value), repr(caught.value), str(raw.value), repr(settings), str(settings.servers["primary"]),
        json.dumps(describe(settings)), settings.model_dump_json(), str(settings.model_dump()),
    ):  # fmt: skip
        assert "sesame-open" not in shown
        assert "kkkk" not in shown


def test_settings_made_in_code_are_checked_the_same_and_do_not_read_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TENANTPROXY_POOLS__MAX_SIZE", "7")
    assert Settings(**GOOD).pools.max_size == 10
    with pytest.raises(ValidationError, match="names the server 'nope'"):
        Settings(**changed(main={"server": "nope", "database": "x"}))


def test_settings_are_frozen() -> None:
    settings = Settings.from_mapping(GOOD)
    with pytest.raises(ValidationError):
        settings.pools.max_size = 3  # type: ignore[misc]


def test_every_section_and_default_of_the_contract_is_there() -> None:
    settings = Settings.from_mapping(GOOD)
    assert {field.alias or name for name, field in Settings.model_fields.items()} == CONTRACT_SECTIONS
    primary, pools, registry = settings.servers["primary"], settings.pools, settings.registry
    assert (primary.host, primary.port, primary.ssl, primary.max_connections) == ("127.0.0.1", 5432, "prefer", 200)
    assert (primary.connect_timeout, primary.statement_timeout, primary.idle_in_transaction_timeout) == (5, 30, 60)
    assert (primary.lock_timeout, primary.search_path, primary.replicas) == (0, ("public",), ())
    assert (settings.main.max_size, pools.max_pools, pools.max_size, pools.shared_size) == (20, 100, 10, 20)
    assert (pools.acquire_timeout, pools.max_waiting, pools.guaranteed, pools.reset) == (5, 100, 1, "always")
    assert (pools.idle_timeout, pools.max_lifetime) == (300, 3600)
    assert (registry.cache_ttl, registry.negative_ttl) == (30, 5)
    assert (settings.row.setting, settings.row.signed, settings.row.proof_window) == ("app.current_tenant_id", True, 60)
    assert settings.row.form == "bound"
    assert (settings.row.unprotected, settings.schema_.shared_role, settings.schema_.common) == ((), False, ())
    assert settings.resolve.agree == ("claim:tenant", "header:X-Tenant-ID")
    assert (settings.http.listen, settings.admin.listen, settings.pg.listen) == (
        "127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:6432",
    )  # fmt: skip
    assert (settings.auth.algorithm, settings.auth.access_ttl, settings.login.pad_to) == ("HS256", 900, 0.25)
    assert (settings.metrics.max_tenants, settings.tenant_roles) == (100, None)


def test_a_tenant_entry_becomes_a_tenant_on_the_default_server() -> None:
    settings = Settings.from_mapping(tenants(acme=row(max_size=3, epoch=2, settings={"plan": "gold", "beta": True})))
    tenant = settings.tenants["acme"].to_tenant("acme", "primary")
    assert (tenant.id, tenant.placement.server, tenant.placement.isolation) == ("acme", "primary", Isolation.ROW)
    assert (tenant.limits, tenant.epoch) == (Limits(max_size=3), 2)
    assert tenant.settings == {"plan": "gold", "beta": "true"}


def test_row_keys_come_from_one_key_or_from_numbered_files(tmp_path: Path) -> None:
    for kid in "13":
        (tmp_path / kid).write_text(kid * 32 + "\n")
    one = Settings.from_mapping(GOOD)
    assert {kid: key.read() for kid, key in one.row.keys().items()} == {1: "k" * 32}
    several = Settings.from_mapping(changed(row={"key_files": {"1": str(tmp_path / "1"), "3": str(tmp_path / "3")}}))
    assert {kid: key.read() for kid, key in several.row.keys().items()} == {1: "1" * 32, 3: "3" * 32}


def test_the_description_reads_back_as_the_same_settings_where_secrets_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "pg").write_text("x")
    mapping = changed(servers={"primary": {"user": "app", "password_file": str(tmp_path / "pg")}}, tenants={"a": row()})
    settings = Settings.from_mapping({**mapping, "row": {"key_file": str(_key(tmp_path))}})
    assert Settings.from_mapping(describe(settings)) == settings


def _key(folder: Path) -> Path:
    path = folder / "key"
    path.write_text("0" * 64 + "\n")
    return path


def test_the_json_schema_names_every_section_and_marks_secrets() -> None:
    schema = json_schema()
    assert set(schema["properties"]) == CONTRACT_SECTIONS
    assert schema["additionalProperties"] is False
    assert '"writeOnly": true' in json.dumps(schema["$defs"]["Server"]["properties"]["password"])
    assert "schema" in schema["$defs"]["TenantEntry"]["properties"]


def test_users_of_the_postgresql_port_are_taken_as_the_contract_writes_them() -> None:
    settings = Settings.from_mapping(
        users(
            billing={"verifier": VERIFIER, "tenants": "*"},
            acme_bi={"password": "x", "tenants": ["acme"], "pool_mode": "session"},
            ops={"password": "y", "console": True},
            watcher={"password": "z", "console": "read"},
        )
    )
    got = {name: (user.tenants, user.pool_mode, user.console) for name, user in settings.pg.users.items()}
    assert got == {
        "billing": ("*", "transaction", False),
        "acme_bi": (("acme",), "session", False),
        "ops": ((), "transaction", True),
        "watcher": ((), "transaction", "read"),
    }
    assert settings.pg.jwt is False


def test_a_token_may_be_asked_for_where_only_this_machine_can_connect() -> None:
    for listen in ("127.0.0.1:0", "[::1]:6432", "localhost:6432", "127.8.0.1:1"):
        assert is_loopback(listen)
        Settings.from_mapping(changed(pg={"jwt": True, "listen": listen}, auth={"key": "k" * 32}))
    for listen in ("0.0.0.0:1", "[::]:1", "10.0.0.1:1", "db.local:1", "localhost.example.com:1"):
        assert not is_loopback(listen)
        pg = {"listen": listen, "ssl_required": "never"}
        Settings.from_mapping(changed(pg=pg, auth={"key": "k" * 32}))  # as long as it is not asked for


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:0", ("::1", 0)), ("db.local:1", ("db.local", 1))]
)
def test_a_listen_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    assert listen_address(text) == address


@pytest.mark.parametrize(
    ("tokens", "key", "said"),
    [
        ({"a": {"role": "read"}}, "admin.tokens.a.token_file", "is missing"),
        ({"a": {"role": "root", "token": "x" * 32}}, "admin.tokens.a.role", "read"),
        ({"a": {"role": "read", "token": "short"}}, "admin.tokens.a.token", "5 bytes long"),
        ({"a b": {"role": "read", "token": "x" * 32}}, "admin.tokens.a b", "name"),
        ({"admin": {"role": "read", "token": "x" * 32}}, "admin.tokens.admin", "itself"),
        ({"a": {"role": "read", "token": "t" * 32}}, "admin.tokens.a", "same token as that of 'admin'"),
        ({"a": {"role": "read", "token_file": "/nowhere/x"}}, "admin.tokens.a.token_file", "/nowhere/x"),
    ],
)
def test_a_named_token_that_cannot_be_used_is_told(tokens: dict[str, Any], key: str, said: str) -> None:
    problems = problems_of(changed(admin={"listen": "0.0.0.0:8081", "token": "t" * 32, "tokens": tokens, **PLAIN}))
    assert [problem.key for problem in problems] == [key]
    assert said in str(problems[0])
    assert "x" * 32 not in str(problems[0])


def test_a_named_token_is_enough_for_a_listener_that_others_reach() -> None:
    tokens = {"ann": {"role": "admin", "token": "x" * 32}}
    settings = Settings(**changed(admin={"listen": "0.0.0.0:8081", "tokens": tokens, **PLAIN}))
    assert "x" * 32 not in repr(settings)
    assert "x" * 32 not in json.dumps(describe(settings))


def test_the_shipped_example_is_accepted_once_its_secrets_exist(tmp_path: Path) -> None:
    for name in ("pg", "pg_admin", "pg_login", "row_key", "admin", "admin_grafana", "pepper", "billing", "ops"):
        (tmp_path / name).write_text("0123456789abcdef" * 4 + ("2\n" if name == "admin_grafana" else "\n"))
    copy = tmp_path / "tenantproxy.toml"
    copy.write_text(EXAMPLE.read_text().replace("/run/secrets/", f"{tmp_path}/"))
    settings = load(copy)
    assert settings.servers["primary"].replicas == ("replica",)
    assert settings.servers["primary"].admin is not None
    assert (settings.pg.users["billing"].tenants, settings.pg.users["ops"].console) == ("*", True)
    assert [name for name, _ in settings.admin.each_token] == ["admin", "grafana"]
    assert load(EXAMPLE, secrets=False).pools == settings.pools == Settings(**GOOD).pools
    assert load(EXAMPLE, secrets=False).registry == Settings(**changed(registry=None)).registry


@pytest.mark.parametrize("hosts", [(), ("one:5433", "two")], ids=["one host", "several"])
def test_a_copy_of_a_server_for_another_user_has_that_user_at_each_host(hosts: tuple[str, ...]) -> None:
    settings = Settings(**changed(servers=server(**({"hosts": hosts} if hosts else {}))))
    primary = settings.servers["primary"]
    assert {each.user for each in primary.each_host} == {"app"}
    assert {each.user for each in primary.model_copy(update={"user": "reader"}).each_host} == {"reader"}


def test_the_example_ends_no_statement_of_the_port() -> None:
    """A key that is given there holds for the port too, whose default is a server's: none."""
    assert "statement_timeout" not in load(EXAMPLE, secrets=False).servers["primary"].model_fields_set


def test_every_key_of_the_port_is_explained() -> None:
    explained = (EXAMPLE.parents[1] / "docs" / "configuration.md").read_text()
    keys = {*Pg.model_fields, *PgUser.model_fields, "require_auth"} - {"users"}
    assert [key for key in sorted(keys) if f"`{key}`" not in explained] == []


@pytest.mark.parametrize(
    "given",
    [
        {"tenant_roles": {"key": "k" * 32}},
        {"servers": server(ssl_cert_file="c", ssl_key_file="k")},
        {"servers": server(password="")},
        {"servers": server(user="r")},
    ],
    ids=["a key", "a certificate", "no password asked for", "the server's own user"],
)
def test_a_role_needs_no_key_where_its_password_comes_from_elsewhere(given: dict[str, Any]) -> None:
    entry = {"isolation": "database", "database": "d", "role": "r"}
    Settings.from_mapping(changed(tenants={"acme": entry}, **given))


def test_sources_that_no_request_can_have_are_refused_all_at_once() -> None:
    agree = ["claim:tenant", "subdomain", "foo:bar", "heade:X-T", "path:/t/", "header:a b", "claim:"]
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_mapping(changed(resolve={"agree": agree}, pools={"max_size": 0}))
    told = {problem.key: problem for problem in caught.value.problems}
    assert set(told) == {"pools.max_size", *(f"resolve.agree.{number}" for number in range(1, 7))}
    assert "did you mean header:X-T?" in told["resolve.agree.3"].problem
    assert "subdomain:example.com" in told["resolve.agree.1"].problem
    with pytest.raises(ConfigurationError, match=r"resolve\.agree: is empty"):
        Settings.from_mapping(changed(resolve={"agree": []}))


@pytest.mark.parametrize(
    "admin",
    [
        {"listen": "0.0.0.0:8081", "token": "a token of many bytes", **PLAIN},
        {"listen": "localhost:8081"},
        {"listen": "127.0.0.2:8081"},
        {"listen": "[::1]:8081"},
        {"listen": ""},
    ],
)
def test_an_admin_listener_needs_a_token_only_where_others_reach_it(admin: dict[str, Any]) -> None:
    assert Settings.from_mapping(changed(admin=admin)).admin.listen == admin["listen"]


def test_a_running_process_takes_over_all_that_says_how_tls_is_spoken() -> None:
    sections: tuple[type[BaseModel], ...] = (Http, Admin, Pg)
    changes: list[tuple[str, ...]] = [
        (section.__name__.lower(), key) for section in sections for key in section.model_fields if key.startswith("ssl")
    ]
    changes += [("servers", "primary", key) for key in Server.model_fields if key.startswith("ssl")]
    assert [change for change in changes if not is_taken_over(change)] == []
