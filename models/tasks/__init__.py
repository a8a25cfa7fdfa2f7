"""Tasks turn encoded inputs into the feeds of a graph, and its outputs into typed answers."""

from models.tasks.classify import Classification, Joint
from models.tasks.fill import Filling
from models.tasks.forecast import Forecasting
from models.tasks.generate import Generation
from models.tasks.tag import Tagging
from models.tasks.translate import Translation
from models.tasks.types import (
    EmbeddingInput,
    Entity,
    EntitySpan,
    FilledGap,
    Forecast,
    GeneratedToken,
    GenerationDetails,
    GenerationResult,
    JointAnswer,
    LabelScore,
    StreamChunk,
    TaggedInput,
    TranslationResult,
    as_json,
)

Decoding = Generation | Translation  # write step by step
Task = Tagging | Classification | Joint | Generation | Forecasting | Translation | Filling

__all__ = [
    "Classification",
    "Decoding",
    "EmbeddingInput",
    "Entity",
    "EntitySpan",
    "FilledGap",
    "Filling",
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
    "Translation",
    "TranslationResult",
    "as_json",
]
