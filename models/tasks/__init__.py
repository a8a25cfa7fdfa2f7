"""Tasks turn encoded inputs into the feeds of a graph, and its outputs into typed answers."""

from models.tasks.classify import Classification, Joint
from models.tasks.forecast import Forecasting
from models.tasks.generate import Generation
from models.tasks.tag import Tagging
from models.tasks.types import (
    EmbeddingInput,
    Entity,
    EntitySpan,
    Forecast,
    GeneratedToken,
    GenerationDetails,
    GenerationResult,
    JointAnswer,
    LabelScore,
    StreamChunk,
    TaggedInput,
    as_json,
)

Task = Tagging | Classification | Joint | Generation | Forecasting

__all__ = [
    "Classification",
    "EmbeddingInput",
    "Entity",
    "EntitySpan",
    "Forecast",
    "Forecasting",
    "GeneratedToken",
    "Generation",
    "GenerationDetails",
    "GenerationResult",
    "Joint",
    "JointAnswer",
    "LabelScore",
    "StreamChunk",
    "TaggedInput",
    "Tagging",
    "Task",
    "as_json",
]
