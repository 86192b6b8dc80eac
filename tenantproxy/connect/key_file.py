"""May this file be the private key of a certificate? As PostgreSQL and libpq judge it, with a reason and a fix."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import NoReturn

__all__ = ["UnusableKey", "load_certificate"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_OF_ROOT = stat.S_IWGRP | stat.S_IXGRP | stat.S_IRWXO  # a group of the system's may read it: ssl-cert of Debian


class UnusableKey(Exception):
    """A certificate or its key cannot be used. `is_key`: it is the key's fault; `why` and `fix` are for operators."""

    def __init__(self, why: str, fix: str, *, is_key: bool = True) -> None:
        super().__init__(f"{why}: {fix}")
        self.why = why
        self.fix = fix
        self.is_key = is_key


def load_certificate(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Let `context` show the certificate in one file with the key in another. Raises UnusableKey."""
    _check_readable(certificate, is_key=False)
    _check_readable(key, is_key=True)
    _check_permissions(key)
    try:
        context.load_cert_chain(certificate, key, password=_encrypted)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            why, fix = "is not the key of the certificate", "name the key that the certificate was made for"
            raise UnusableKey(why, fix) from None
        is_key = _is_certificate(certificate)
        what = "private key" if is_key else "certificate"
        why = f"holds no {what} that can be used ({exc.reason or 'not PEM'})"
        raise UnusableKey(why, f"write the {what} as PEM", is_key=is_key) from None


def _is_certificate(path: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True


def _check_readable(path: str, *, is_key: bool) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as exc:
        why = f"cannot be read ({exc.strerror})"
        fix = "name a file that the process may read, or make it readable for its user"
        raise UnusableKey(why, fix, is_key=is_key) from None


def _check_permissions(path: str) -> None:
    if os.name != "posix":
        return
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise UnusableKey("is not a regular file", "name the file itself")
    if found.st_uid not in (0, os.geteuid()):
        raise UnusableKey("belongs to another user", "let it belong to the user of this process, or to root")
    if found.st_mode & (_OTHERS_OF_ROOT if found.st_uid == 0 else _OTHERS):
        allowed = "0640 or less for root's" if found.st_uid == 0 else "0600 or less"
        why = f"has permissions {stat.S_IMODE(found.st_mode):04o}: others than its owner may use it"
        raise UnusableKey(why, f"chmod it to {allowed}")


def _encrypted() -> NoReturn:
    raise UnusableKey("is encrypted, and there is no passphrase for it", "write it without a passphrase: openssl pkey")
