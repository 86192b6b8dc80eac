"""What would a pgbouncer.ini be as a configuration of tenantproxy? Read, translated, and written to be reviewed."""

from __future__ import annotations

from tenantproxy.lifecycle.from_pgbouncer.ini import Ini, read_ini
from tenantproxy.lifecycle.from_pgbouncer.translate import Translated, translate
from tenantproxy.lifecycle.from_pgbouncer.values import Remark
from tenantproxy.lifecycle.from_pgbouncer.write import toml_text, write_folder

__all__ = ["Ini", "Remark", "Translated", "read_ini", "toml_text", "translate", "write_folder"]
