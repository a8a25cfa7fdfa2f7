"""Arrays to answers, one file a task.

Knows codecs and numpy. Knows no graph, no batch policy and no HTTP.
"""

from models.tasks.asked import Piece, Whole
from models.tasks.classify import Classification
from models.tasks.generate import Generation
from models.tasks.joint import Joint
from models.tasks.tag import Tagging

Task = Tagging | Classification | Joint | Generation

__all__ = ["Classification", "Generation", "Joint", "Piece", "Tagging", "Task", "Whole"]
