"""``/v1/models`` as types for the OpenAPI document. OpenAI's fields come first, for its client."""

from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12


class CardLimits(TypedDict):
    """``max_length``: the most words, characters, bases or frames in one input."""

    max_length: int


class ModelCard(TypedDict):
    """One bundle.

    ``streams``: whether ``WS /v1/stream`` accepts it. ``embeddings``: the width of its vectors, 0 for none.
    ``scores``: those of each variant. ``metric``: the main one of them.
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
    """The bundles in the order of the settings. The first that can do a task is its default."""

    object: Literal["list"]
    data: list[ModelCard]
