"""Why a test may skip, and the end of a session that says why tests did; a skip for any other reason fails the session."""

from __future__ import annotations

import platform
from collections import Counter

import pytest

GPU = "needs a GPU"
FLASH = "needs flash-attn"
VERIFIERS = "needs verifiers"
"""It brings some fifty packages, so the tools for development leave it out."""
FILES = "needs files that are not published"
BROWSER = "needs Chromium"
"""No package of Python: where only the two commands of the README have run there is none."""
MACHINE = "needs another machine"
"""Another processor or system; never said on Linux with glibc on x86-64, where everything can run."""
ALLOWED = (GPU, FLASH, VERIFIERS, FILES, BROWSER, MACHINE)
X86 = platform.machine() in {"x86_64", "AMD64"}


class SkipReport:
    """The plug-in of pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def reasons(self) -> Counter[str]:
        """How many tests were skipped for each reason."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        found = [report.longrepr for report in reporter.stats.get("skipped", [])]
        return Counter(str(each[2]).removeprefix("Skipped: ") if isinstance(each, tuple) else str(each) for each in found)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and any(not reason.startswith(ALLOWED) for reason in self.reasons()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reasons = self.reasons()
        if not reasons:
            return
        terminalreporter.section("skipped, by reason")
        for reason, count in reasons.most_common():
            allowed = reason.startswith(ALLOWED)
            note = "" if allowed else f"  <- fails the session: install what it needs, or give one of the reasons {', '.join(ALLOWED)}"
            terminalreporter.line(f"{count:5}  {reason}{note}", red=not allowed)
