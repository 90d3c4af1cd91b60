"""No secret in any log or output: every test is looked at, and tests plant secrets to be found.

A test plants a secret with one of ``PLANTED`` in it. ``tests/conftest.py`` takes the hook.
"""

from collections.abc import Generator, Iterable

import pytest

PLANTED = ("s3cret", "-----BEGIN PRIVATE KEY", "-----BEGIN ENCRYPTED PRIVATE KEY")


def leaks(sections: Iterable[tuple[str, str]]) -> list[str]:
    """Name what was captured, and the secret in it."""
    return [f"{mark!r} in {name}" for name, text in sections for mark in PLANTED if mark in text]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    found = leaks(report.sections)
    if report.passed and found:
        report.outcome = "failed"
        report.longrepr = f"a secret was written: {', '.join(found)}"
    return report
