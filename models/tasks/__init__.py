"""Tasks turn encoded inputs into the feeds of a graph, and its outputs into typed answers."""

from models.tasks.classify import Classification, Joint
from models.tasks.generate import Generation
from models.tasks.tag import Tagging
from models.tasks.types import (
    EmbeddingInput,
    Entity,
    EntitySpan,
    GeneratedToken,
    GenerationDetails,
    GenerationResult,
    JointAnswer,
    LabelScore,
    StreamChunk,
    TaggedInput,
    as_json,
)

Task = Tagging | Classification | Joint | Generation

__all__ = [
    "Classification",
    "EmbeddingInput",
    "Entity",
    "EntitySpan",
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
