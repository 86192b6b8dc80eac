"""Where does a PostgreSQL come from when none is running? For the demo, the tests, and scripts that want a real one."""

from tenantproxy.embedded.binaries import Binaries, all_binaries, find_binaries
from tenantproxy.embedded.server import EmbeddedPostgres

__all__ = ["Binaries", "EmbeddedPostgres", "all_binaries", "find_binaries"]
