"""Arrays to answers, one file a task.

Knows codecs and numpy. Knows no graph, no batch policy and no HTTP.
"""

from models.tasks.answers import (
    Entity,
    EntitySpan,
    GeneratedToken,
    GenerationDetails,
    GenerationResult,
    JointAnswer,
    LabelScore,
    as_json,
)
from models.tasks.classify import Classification
from models.tasks.generate import Generation
from models.tasks.joint import Joint
from models.tasks.request_types import EmbeddingInput, StreamChunk
from models.tasks.tag import Tagging

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
    "Tagging",
    "Task",
    "as_json",
]
