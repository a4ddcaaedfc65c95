"""The table at the end of a parity run."""

from __future__ import annotations

import pytest

ROWS = pytest.StashKey[list[tuple[str, int, float, str]]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print case, tensors compared and largest error of each case that ran."""
    rows: list[tuple[str, int, float, str]] = []
    for status in ("passed", "failed"):
        for report in terminalreporter.getreports(status):
            rows += [value for key, value in report.user_properties if key == "parity"]
    if not rows:
        return
    terminalreporter.section("parity with the original")
    terminalreporter.write_line(f"{'case':<34}{'compared':>9}{'largest error':>15}  at")
    for name, compared, worst, where in sorted(rows):
        terminalreporter.write_line(f"{name:<34}{compared:>9}{worst:>15.2e}  {where}")
