"""Options of the acceptance tests."""

import pytest

from tests.support.live_service import FULL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of the full mode an hour each."""
    for item in items:
        if FULL and "tests/e2e" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(3600))
