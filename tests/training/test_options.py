"""The sections [architecture] and [training]: validation, and the meaning of each field."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.options import Architecture, Training

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"average": 0.9, "average_after": 3}, "value_error"),
        ({"average_after": 3, "average_stalled": 5}, "value_error"),
        ({"momentum": 0.9}, "value_error"),
        ({"learning_rate": 20}, "value_error"),
        ({"accumulate": 0}, "greater_than_equal"),
        ({"schedule": "stairs"}, "literal_error"),
        ({"epoch": 3}, "extra_forbidden"),
    ],
)
def test_invalid_combination_is_rejected(fields: dict[str, Any], kind: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Training(**fields)
    assert [error["type"] for error in caught.value.errors()] == [kind]


def test_old_spelling_of_optimizer_is_accepted() -> None:
    assert Training.model_validate({"optimiser": "sgd"}).optimizer == "sgd"


def test_sgd_allows_large_learning_rates() -> None:
    assert Training(optimizer="sgd", learning_rate=30, momentum=0.5).learning_rate == 30


def test_every_field_has_a_meaning_in_the_reference() -> None:
    lines = (ROOT / "docs/reference/recipes.md").read_text("utf-8").splitlines()  # tests/test_docs.py: it is current
    rows = [(line.split("`")[1], line.split(" | ")[-1].strip("| ")) for line in lines if line.startswith("| `")]
    assert {*Architecture.model_fields, *Training.model_fields} <= {name for name, _ in rows}
    assert [name for name, meaning in rows if not meaning] == []
