"""Is a running sidecar well? Asks its admin listener, which needs no token for that, and sends it no secret."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from typing import Final

from tenantproxy.errors import TenantProxyError

__all__ = ["ask_health"]

_MOST: Final = 4096  # bytes of an answer that are read


class _HereAlone(urllib.request.HTTPRedirectHandler):
    """Another address would say how another process is."""

    def redirect_request(self, *_: object) -> None:
        return None


def ask_health(url: str, *, live: bool, timeout: float) -> str:
    """What the admin listener at `url` answers when it is ready, or with `live` alive.

    Raises TenantProxyError when it is not, or says nothing within `timeout` seconds. Its certificate is not verified,
    as that of a probe of Kubernetes is not: it is asked by an address of this machine, which no certificate names, and
    what is asked is no secret.
    """
    if not url.startswith(("http://", "https://")):  # urllib reads files and ftp too
        raise TenantProxyError(f"{url} is not an http address", hint="say --url http://host:port")
    path = "/livez" if live else "/readyz?verbose"
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(
        _HereAlone, urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=unverified)
    )
    try:
        with opener.open(f"{url.rstrip('/')}{path}", timeout=timeout) as answer:
            return str(answer.read(_MOST).decode(errors="replace")).strip().splitlines()[-1]
    except urllib.error.HTTPError as exc:
        with exc:
            raise _unwell(url, exc) from None
    except (urllib.error.URLError, OSError) as exc:
        reason = exc.reason if isinstance(exc, urllib.error.URLError) else exc
        why = f"no answer within {timeout:g} s" if isinstance(reason, TimeoutError) else str(reason)
        hint = "is it running, and is this the address of [admin] listen?"
        raise TenantProxyError(f"no sidecar answers at {url}", detail=why, hint=hint) from None
    except (ValueError, IndexError):
        raise _stranger(url) from None


def _unwell(url: str, error: urllib.error.HTTPError) -> TenantProxyError:
    lines = error.read(_MOST).decode(errors="replace").strip().splitlines()
    if error.code != 503 or not lines or not lines[-1].startswith("not ready"):
        return _stranger(url)
    return TenantProxyError(f"the sidecar at {url} is {lines[-1]}")


def _stranger(url: str) -> TenantProxyError:
    return TenantProxyError(f"what answers at {url} is not tenantproxy's admin listener")
