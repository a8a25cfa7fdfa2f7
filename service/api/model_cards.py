"""What /v1/models tells of a bundle, as types for the OpenAPI document. The engine's lanes fill them in.

OpenAI's fields come first, so that its client reads them; the rest is ours.
"""

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12


class CardLimits(TypedDict):
    """`max_length`: steps (words, characters, bases or frames) in one input, at most."""

    max_length: int


class ModelCard(TypedDict):
    """One bundle. `tasks` are what can be asked of it. `scores` are those of each variant; `metric` is quoted first.

    `streams`: whether WS /v1/stream takes it. `embeddings`: numbers of its vectors, 0 for none.
    """

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    tasks: list[str]
    description: str
    languages: list[str]
    codec: str
    labels: list[str]
    text_labels: list[str]
    limits: CardLimits
    version: str
    digest: str
    variant: str
    streams: bool
    embeddings: int
    metric: str
    scores: dict[str, dict[str, float]]
    examples: list[Any]


class ModelList(TypedDict):
    """The bundles, in the order in which they were given: the first that can do a task is its default."""

    object: Literal["list"]
    data: list[ModelCard]
