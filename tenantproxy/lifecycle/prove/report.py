"""What does the report of a proof hold, and is one genuine? See `signing`."""

from __future__ import annotations

from typing import Any

from tenantproxy.config import Settings
from tenantproxy.lifecycle.prove.results import IsolationProof
from tenantproxy.lifecycle.signing import ReportRefused, check_signing, signed_json, verified_json

__all__ = ["ReportRefused", "check_signing", "signed_report", "verified_report"]


def signed_report(proof: IsolationProof, settings: Settings) -> str:
    """The report as JSON. Raises ConfigurationError without a key to sign with."""
    return signed_json("prove", proof.plain(), settings)


def verified_report(text: str, settings: Settings) -> dict[str, Any]:
    """What a genuine report says. Raises ReportRefused, ConfigurationError without a key."""
    return verified_json("prove", text, settings)
