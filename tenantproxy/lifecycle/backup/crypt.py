"""Who can read a backup? Those whose keys it was written to, in the format of age, by the package pyrage.

age encrypts in chunks, each authenticated with its number and whether it is the last: what is changed, cut off or put
in another order cannot be read. Nothing of the plain text is on disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.lifecycle.backup.errors import BackupDamaged

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Identities", "Recipients"]

_CHUNK: Final = 256 * 1024
_PRIVATE: Final = "AGE-SECRET-KEY-1"  # how a private key begins
_FIX: Final = "name the file of a key that it was written to: [backup] key_files, or --key-file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipients:
    """To whom what is written is encrypted; no keys: it is not. Made by `of`, which checks them."""

    keys: tuple[Any, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, settings: Settings, given: Sequence[str] = ()) -> Recipients:
        """Those of `given`, else of the configuration. Raises ConfigurationError with each that is no public key."""
        texts = tuple(given) or settings.backup.recipients
        if not texts:
            return cls()
        age = _age()
        keys, problems = [], []
        for number, text in enumerate(texts, start=1):
            if text.startswith(_PRIVATE):  # never repeated
                problem, fix = "is a private key", "give its public one, age1..., and keep this one away from here"
                problems.append(Problem(key=f"recipient {number}", problem=problem, fix=fix))
                continue
            kind = age.ssh if text.startswith("ssh-") else age.x25519
            try:
                keys.append(kind.Recipient.from_str(text))
            except (age.RecipientError, ValueError, TypeError):
                fix = 'write "age1...", as age-keygen prints it, or the line of a public key of SSH'
                problems.append(Problem(key=f"recipient {number}", problem="is no public key", fix=fix))
        if problems:
            raise ConfigurationError(problems)
        return cls(keys=tuple(keys))

    def __bool__(self) -> bool:
        return bool(self.keys)

    def write(self, source: BinaryIO, target: Any) -> None:
        """Copy all of `source` to `target`, encrypted. Blocks. What `source` and `target` raise passes through."""
        if self.keys:
            _age().encrypt_io(source, target, list(self.keys))
        else:
            shutil.copyfileobj(source, target, _CHUNK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """The private keys that read backups; never shown. Made by `of`."""

    keys: tuple[Any, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, settings: Settings, given: Sequence[str] = ()) -> Identities:
        """Those in the files `given`, else of the configuration. Raises ConfigurationError for a file without one."""
        paths = tuple(given) or settings.backup.key_files
        keys, problems = [], []
        for path in paths:
            try:
                keys += _keys_in(Path(path).read_bytes())
            except OSError as exc:
                problem = f"{path} cannot be read: {exc.strerror or type(exc).__name__}"
                problems.append(Problem(key="backup.key_files", problem=problem, fix="correct its name or rights"))
            except ValueError:
                problem, fix = f"{path} has no private key", "name a file that age-keygen made, or a key of SSH"
                problems.append(Problem(key="backup.key_files", problem=problem, fix=fix))
        if problems:
            raise ConfigurationError(problems)
        return cls(keys=tuple(keys))

    def read(self, source: BinaryIO, target: Any, *, encrypted: bool) -> None:
        """Copy all of `source` to `target`, decrypted. Blocks.

        Raises BackupDamaged where it cannot be read with these keys, was changed or cut off.
        """
        if not encrypted:
            shutil.copyfileobj(source, target, _CHUNK)
            return
        if not self.keys:
            raise ConfigurationError([Problem(key="backup.key_files", problem="the backup is encrypted", fix=_FIX)])
        age = _age()
        try:
            age.decrypt_io(source, target, list(self.keys))
        except (age.DecryptError, OSError) as exc:
            if isinstance(exc, OSError) and exc.errno is not None:
                raise  # of the disk or a pipe: those of decryption have no number
            raise BackupDamaged(f"it cannot be decrypted: {exc}", hint=_FIX) from None


def _keys_in(text: bytes) -> list[Any]:
    """Raises ValueError where there is no key."""
    age = _age()
    try:
        if b"PRIVATE KEY-----" in text:
            return [age.ssh.Identity.from_buffer(text)]
        lines = [line.strip() for line in text.decode("ascii").splitlines()]
        found = [age.x25519.Identity.from_str(line) for line in lines if line and not line.startswith("#")]
    except (age.IdentityError, UnicodeDecodeError):
        raise ValueError from None
    if not found:
        raise ValueError
    return found


def _age() -> ModuleType:
    try:
        import pyrage  # an extra
    except ModuleNotFoundError:
        fix = 'pip install "tenantproxy[backup]"'
        problem = "encryption needs the package pyrage, which is not installed"
        raise ConfigurationError([Problem(key="backup.recipients", problem=problem, fix=fix)]) from None
    module: ModuleType = pyrage
    return module
