"""Pytest plugin: with CI=true nothing may skip, or a machine that lacks a tool would be green for the wrong reason."""

from __future__ import annotations

import os

import pytest
from _pytest.terminal import TerminalReporter


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a good run with skipped tests into a failed one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or not isinstance(reporter, TerminalReporter):
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped and session.exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} skipped, and in CI nothing may skip", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
