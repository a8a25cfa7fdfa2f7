"""Arrays to answers, one file a task.

Knows codecs and numpy. Knows no graph, no batch policy and no HTTP.
"""

from models.tasks.classify import Classification
from models.tasks.generate import Generation
from models.tasks.tag import Tagging

Task = Tagging | Classification | Generation

__all__ = ["Classification", "Generation", "Tagging", "Task"]
