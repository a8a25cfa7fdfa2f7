"""Whatever value a field has, its error is in this project's words and not in pydantic's."""

import json
import re
from collections.abc import Iterable
from inspect import isclass
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.manifest import BundleError, Manifest, read
from service.api import schemas
from service.api.application import ROUTES
from service.api.fields import RequestModel
from service.errors import ServiceError
from service.settings import BadSetting, Settings, variable
from training.recipe import Recipe, RecipeError, load, reopen

VALUES: tuple[Any, ...] = (
    *("no such value", "", -1, 0, 1.5, 1e300, True, None, [], {}, [[]], [None], ["a", 1], {"a": 1}),
)
OF_PYDANTIC = re.compile(
    r"(?i)value error|(input|value|string|list|tuple) should|validation error|pydantic|pattern '|after validation"
)
NAMES = Path(__file__).resolve().parent.parent / "models/zoo/names/manifest.json"


def check(messages: Iterable[str]) -> None:
    found = list(messages)
    assert found
    assert [message for message in found if OF_PYDANTIC.search(message)] == []


def test_settings() -> None:
    texts = ["no such value", "-1", "0", "1.5", "1e300", "9" * 5000, "nan", ",", "a,b"]
    messages = []
    for field in Settings.model_fields:
        for text in texts:
            try:
                Settings.read({variable(field): text})
            except BadSetting as error:
                messages.append(str(error))
    check(messages)


def test_recipes() -> None:
    fields = [*Recipe.model_fields, "architecture.hidden", "architecture.cell", "training.epochs", "data.tag_column"]
    messages = []
    for field in fields:
        for value in VALUES:
            try:
                load("tagger", **{field: value})
            except RecipeError as error:
                messages.append(str(error))
    with pytest.raises(RecipeError) as caught:
        reopen({"data": {}, "name": 1})
    check([*messages, str(caught.value)])


def test_manifests(tmp_path: Path) -> None:
    document, messages = json.loads(NAMES.read_text("utf-8")), []
    for field in Manifest.model_fields:
        for value in VALUES:
            (tmp_path / NAMES.name).write_text(json.dumps({**document, field: value}))
            try:
                read(tmp_path)
            except BundleError as error:
                messages.append(str(error))
    check(messages)


BODIES = {route.docs.body for route in ROUTES if route.docs and isclass(route.docs.body)} | {schemas.StreamMessage}


@pytest.mark.parametrize("model", sorted(BODIES, key=lambda body: body.__name__))
def test_requests(model: type[RequestModel]) -> None:
    filled = {"inputs": "a", "prompt": "a", "input": "a"}
    filled = {name: value for name, value in filled.items() if name in model.model_fields}
    bodies = [*VALUES, *({**filled, field: value} for field in model.model_fields for value in VALUES)]
    messages = []
    for body in bodies:
        try:
            schemas.parse_body(model, orjson.dumps(body), Settings())
        except ServiceError as error:
            messages.append(str(error))
    check(messages)
