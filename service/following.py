"""One stream of a causal tagger as it stands between two pieces. Knows no network and no HTTP."""

from dataclasses import dataclass

from models.state import State


@dataclass(slots=True, kw_only=True)
class Following:
    """Mutable: a piece that was answered leaves its state and its steps here; one that failed leaves all as it was."""

    model: str
    memory: State  # arrays (1, width): of this size however long the stream is
    steps: int = 0
