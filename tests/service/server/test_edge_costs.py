"""The measurement of the HTTP layer still runs."""

import pytest

from tests.support.edge_costs import microseconds


@pytest.mark.parametrize("path", ["/v1/tag", "/tag"])
@pytest.mark.parametrize("full", [False, True])
async def test_each_path_is_measured(path: str, *, full: bool) -> None:
    assert await microseconds(path, full=full, rounds=1, requests=2) > 0
