"""What does a failure of MongoDB say to those who look a tenant up? Which is never its text: that has hosts in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tenantproxy.errors import DocumentsUnavailable, RegistryUnavailable
from tenantproxy.mongo.clusters import translated

__all__ = ["asked"]

_HINTS: Final = {
    13: "grant this user of [mongo.clusters] read on the registry",
    18: "correct user and password of the cluster in [mongo.clusters]",
}


@contextmanager
def asked() -> Iterator[None]:
    """What says something of MongoDB, not of one document, becomes RegistryUnavailable."""
    from pymongo.errors import OperationFailure, PyMongoError

    message = "the tenant could not be looked up"
    try:
        with translated():
            yield
    except DocumentsUnavailable as exc:
        detail = f"the registry: {exc.detail}"
        raise RegistryUnavailable(message, detail=detail, hint=exc.hint, retry_after=1.0) from None
    except OperationFailure as exc:  # not its text, which repeats what was asked
        detail, hint = f"the registry: {type(exc).__name__} {exc.code}", _HINTS.get(exc.code or 0)
        raise RegistryUnavailable(message, detail=detail, hint=hint, retry_after=1.0) from exc
    except PyMongoError as exc:
        raise RegistryUnavailable(message, detail=f"the registry: {type(exc).__name__}", retry_after=1.0) from None
