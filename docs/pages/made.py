"""Which pages are made from the code, and under which names?"""

from __future__ import annotations

from docs.pages import api, commands, configuration, metrics

__all__ = ["made"]


def made() -> dict[str, str]:
    """The pages by their path below docs/."""
    return {
        "reference/python-api.md": api.page(),
        "reference/commands.md": commands.page(),
        "reference/configuration-keys.md": configuration.page(),
        "reference/metrics.md": metrics.page(),
    }
