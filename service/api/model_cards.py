"""The models in ``/v1/models``. OpenAI's fields come first, for its client."""

from datetime import UTC, datetime, time
from typing import Any, Literal

from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service.engine import Engine
from service.model_runtime import ModelRuntime


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


def model_cards(engine: Engine) -> list[ModelCard]:
    """Return the card of every loaded bundle, in the order of the settings."""
    return [model_card(runtime) for runtime in engine.runtimes.values()]


def model_card(runtime: ModelRuntime) -> ModelCard:
    bundle, manifest = runtime.bundle, runtime.bundle.manifest
    created = datetime.combine(manifest.provenance.created, time(), tzinfo=UTC)
    return {
        "id": manifest.name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "seqserve",
        "task": manifest.task,
        "tasks": list(runtime.tasks),
        "description": manifest.description,
        "languages": list(manifest.languages),
        "codec": manifest.codec.kind,
        "labels": list(manifest.labels),
        "text_labels": list(manifest.text_labels),
        "streams": manifest.streams,
        "embeddings": manifest.embedding_width,
        "limits": {"max_length": manifest.max_length},
        "version": manifest.version,
        "digest": bundle.digest,
        "variant": bundle.variant,
        "metric": manifest.metric,
        "scores": {name: variant.scores for name, variant in manifest.variants.items()},
        "examples": [example.inputs for example in manifest.examples],
    }
