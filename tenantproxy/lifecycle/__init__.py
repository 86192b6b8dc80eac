"""How does a tenant come, change and go? Run by an operator with the server's admin credentials, never by a request."""

from tenantproxy.lifecycle.install import forget_keys, install, install_auth, install_registry, isolate_table

__all__ = ["forget_keys", "install", "install_auth", "install_registry", "isolate_table"]
