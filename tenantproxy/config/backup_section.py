"""Where do backups go, for how long, and who can read them?"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tenantproxy.config.section import Section
from tenantproxy.config.values import Count, NoTimeout, Size, Text, Texts

__all__ = ["BackupSettings"]


class BackupSettings(Section):
    """What `backup` writes and keeps.

    `folder`: where to, readable by its user alone. `recipients`: public keys (`age1...`, or a line of an SSH key), each
    of which can read what is written; none: it is not encrypted. `key_files`: files with the private keys, for
    `verify` and `restore`. `pg_dump`: the program, `pg_restore` is next to it; empty: the newest that is found and not
    older than the server. `keep`: backups of a tenant that `prune` leaves at least; `keep_days`: and all that are
    younger; 0: that rule is out of use. `parallel`: tenants at once, each with two connections to its server.
    `timeout`: seconds for one to be saved, and a tenth more for each MiB of its database; or to be read in, and one
    more for each MiB and each thousand rows of the backup; 0: no bound.
    """

    folder: Text = ""
    recipients: Texts = ()
    key_files: Texts = ()
    pg_dump: Text = ""
    keep: Count = 7
    keep_days: Count = 0
    parallel: Annotated[Size, Field(le=32)] = 2
    timeout: NoTimeout = 600.0
