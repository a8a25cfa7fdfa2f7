"""The OpenAPI document: complete, and made of what the routes say of themselves."""

from service.protocols.lean import ROUTES


def test_every_route_has_its_documentation_beside_it() -> None:
    assert [route.pattern for route in ROUTES.all if route.docs is None] == []
