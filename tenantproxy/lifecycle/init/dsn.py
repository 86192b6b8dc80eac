"""Where is the server? Takes a PostgreSQL URL apart; no message repeats it: it may hold a password. Opens no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from tenantproxy.config import Server
from tenantproxy.config.server_sections import SslMode
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["GivenServer", "parse_dsn"]

_FORM: Final = "postgresql://USER@HOST:5432/DATABASE"
_MEANT: Final = frozenset({"host", "port", "user", "password", "dbname", "sslmode", "sslrootcert"})
_HARMLESS: Final = frozenset({"application_name", "connect_timeout", "client_encoding", "target_session_attrs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenServer:
    """What a DSN says. `password`: None where none is given, so that libpq's password file may have it."""

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    database: str
    ssl: str
    ssl_root_cert_file: str = ""

    def section(self) -> Server:
        """As the section of a server. Raises ConfigurationError where a part of it cannot be one."""
        try:
            return Server.model_validate(
                {
                    "host": self.host,
                    "port": self.port,
                    "user": self.user,
                    "ssl": self.ssl,
                    "ssl_root_cert_file": self.ssl_root_cert_file,
                }
            )
        except ValueError:
            raise _wrong("has a host, port or user that cannot be one") from None


def parse_dsn(text: str, environment: Mapping[str, str]) -> GivenServer:
    """The parts of `postgresql://user:password@host:port/database?sslmode=...`.

    What it leaves out is in `environment`: PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLMODE, PGSSLROOTCERT.
    Raises ConfigurationError that says which part is wrong.
    """
    try:
        parts = urlsplit(text)
        port, scheme = parts.port, parts.scheme
    except ValueError:
        raise _wrong("has a port that is no number from 1 to 65535, or brackets that do not match") from None
    if scheme not in ("postgresql", "postgres"):
        raise _wrong("is no PostgreSQL URL")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(options.keys() - _MEANT - _HARMLESS):
        raise _wrong(f"has the parameter {unknown[0]!a}, which is not known here", "leave it out")
    host = options.get("host") or unquote(parts.hostname or "") or environment.get("PGHOST", "127.0.0.1")
    if "," in parts.netloc or "," in host:
        raise _wrong("names several hosts", "name the primary alone; more of them go into hosts of the file")
    if not options.get("port", "5432").isdecimal():
        raise _wrong("has a port that is no number")
    database = options.get("dbname") or unquote(parts.path.removeprefix("/"))
    user = options.get("user") or unquote(parts.username or "") or environment.get("PGUSER", "")
    if not user:
        raise _wrong("names no user", f"{_FORM}: one that may create roles, best a superuser")
    if not database:
        raise _wrong("names no database", f"{_FORM}: the one that your application uses")
    ssl = options.get("sslmode") or environment.get("PGSSLMODE") or "prefer"
    if ssl not in get_args(SslMode):
        raise _wrong(f"has an unknown sslmode {ssl!a}", f"one of {', '.join(get_args(SslMode))}")
    root = options.get("sslrootcert") or environment.get("PGSSLROOTCERT", "")
    given = options.get("password") or unquote(parts.password or "") or environment.get("PGPASSWORD", "")
    return GivenServer(
        host=host,
        port=int(options.get("port") or port or environment.get("PGPORT", "5432")),
        user=user,
        password=given or None,
        database=database,
        ssl=ssl,
        ssl_root_cert_file=str(Path(root).absolute()) if root else "",  # the file that holds it is in another folder
    )


def _wrong(problem: str, fix: str = f"write it as {_FORM}") -> ConfigurationError:
    return ConfigurationError([Problem(key="DSN", problem=problem, fix=fix)], source="init")
