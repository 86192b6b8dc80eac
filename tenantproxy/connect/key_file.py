"""May these files be a certificate, its key, its authorities? As PostgreSQL and libpq judge it, with reason and fix."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import Final, NoReturn

__all__ = ["UnusableFile", "load_authorities", "load_certificate"]

_CERTIFICATE: Final = "ssl_cert_file"
_KEY: Final = "ssl_key_file"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_OF_ROOT = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO  # a group of the system's may read it: ssl-cert of Debian


class UnusableFile(Exception):
    """A file that TLS needs cannot be used. `key` of the section names it; `why` and `fix` are for operators."""

    def __init__(self, key: str, why: str, fix: str) -> None:
        super().__init__(f"{key} {why}: {fix}")
        self.key = key
        self.why = why
        self.fix = fix


def load_authorities(context: ssl.SSLContext, path: str, key: str, what: str = "certificate of an authority") -> None:
    """Let `context` trust what is in the file; `key` names it, and it holds `what`. Raises UnusableFile."""
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as exc:
        why = f"holds no {what} that can be read ({exc.reason or 'not PEM'})"
        raise UnusableFile(key, why, "write it as PEM") from None
    except OSError as exc:
        why, fix = f"cannot be read ({exc.strerror})", "name a file that the process may read"
        raise UnusableFile(key, why, fix) from None


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Let `context` show the certificate in one file with the key in another. Raises UnusableFile."""
    _check_readable(certificate, _CERTIFICATE)
    _check_readable(key, _KEY)
    _check_permissions(key)
    try:
        context.load_cert_chain(certificate, key, password=_encrypted)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            why, fix = "is not the key of the certificate", "name the key that the certificate was made for"
            raise UnusableFile(_KEY, why, fix) from None
        is_key = _is_certificate(certificate)
        what = "private key" if is_key else "certificate"
        why = f"holds no {what} that can be used ({exc.reason or 'not PEM'})"
        raise UnusableFile(_KEY if is_key else _CERTIFICATE, why, f"write the {what} as PEM") from None


def _is_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


def _check_readable(path: str, key: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as exc:
        why = f"cannot be read ({exc.strerror})"
        fix = "name a file that the process may read, or make it readable for its user"
        raise UnusableFile(key, why, fix) from None


def _check_permissions(path: str) -> None:
    if os.name != "posix":
        return
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFile(_KEY, "is not a regular file", "name the file itself")
    if found.st_uid not in (0, os.geteuid()):
        raise UnusableFile(_KEY, "belongs to another user", "let it belong to the user of this process, or to root")
    if found.st_mode & (_OTHERS_OF_ROOT if found.st_uid == 0 else _OTHERS):
        allowed = "0640 or less for root's" if found.st_uid == 0 else "0600 or less"
        why = f"has permissions {stat.S_IMODE(found.st_mode):04o}: others than its owner may use it"
        raise UnusableFile(_KEY, why, f"chmod it to {allowed}")


def _encrypted() -> NoReturn:
    raise UnusableFile(
        _KEY, "is encrypted, and there is no passphrase for it", "write it without a passphrase: openssl pkey"
    )
