"""[training]: what does not go together is refused, with the remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from training.training_config import Training


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"average": 0.9, "average_after": 3}, "three ways to average: set one of them"),
        ({"average_after": 3, "average_stalled": 5}, "three ways to average"),
        ({"momentum": 0.9}, "momentum 0.9 is for sgd: set optimiser = 'sgd'"),
        ({"learning_rate": 20}, "learning_rate 20.0 is too large for adamw"),
        ({"accumulate": 0}, "greater than or equal to 1"),
        ({"schedule": "stairs"}, "'cosine', 'constant', 'linear', 'one-cycle' or 'plateau'"),
        ({"epoch": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Training(**fields)


def test_the_rates_of_sgd_may_be_large() -> None:
    assert Training(optimiser="sgd", learning_rate=30, momentum=0.5).learning_rate == 30


def test_every_field_says_what_it_is() -> None:
    assert [name for name, field in Training.model_fields.items() if not field.description] == []
