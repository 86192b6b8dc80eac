"""Whose request does a log record belong to?"""

from __future__ import annotations

import logging

from tenantproxy.context import REQUEST_ID, current
from tenantproxy.errors import TenantUnresolved

__all__ = ["TenantFilter"]


class TenantFilter(logging.Filter):
    """Gives each record `tenant`, the current one, and `request_id`; `-` outside of requests. Add it to a handler.

    A record that names them itself keeps what it says. A handler that writes in a thread of its own (QueueListener)
    needs the filter before the queue, on the QueueHandler: the thread has no current tenant.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        if not hasattr(record, "tenant"):
            try:
                record.tenant = current().id
            except TenantUnresolved:
                record.tenant = "-"
        if not hasattr(record, "request_id"):
            record.request_id = REQUEST_ID.get() or "-"
        return True
