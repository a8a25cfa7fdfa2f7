"""The reference path for streams and embeddings, one input at a time, as `models.self_test` is for answers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.manifest import BundleError
from models.state import State
from models.tasks import Classification, EmbeddingInput, Joint, StreamChunk, TaggedInput, Tagging


def follow(bundle: Bundle, raw: Any, state: State | None = None) -> tuple[TaggedInput, State]:
    """Return the entities of one chunk of a stream and the state after it. Without `state` the stream begins.

    The answers do not depend on where the stream is cut. Raises BundleError for a bundle without state.
    """
    task = bundle.task
    if not isinstance(task, Tagging) or not task.state:
        raise BundleError(f"{bundle.manifest.name}: reads whole sequences; choose a bundle with a state")
    chunk = StreamChunk(task.encode(raw), task.start() if state is None else state)
    if not chunk.length:
        return TaggedInput(), chunk.state
    (row,) = task.decode([chunk], bundle.model.run(task.collate([chunk])))
    return task.answer(chunk.item, row, aggregation="none"), row.state


def embed(bundle: Bundle, raw: Any) -> NDArray[np.float32]:
    """Return the embedding (W,) of one input. Raises BundleError for a bundle without one and for an empty input."""
    task = bundle.task
    if not isinstance(task, Classification | Joint) or not task.embeds:
        raise BundleError(f"{bundle.manifest.name}: has no output 'embedding'")
    whole = EmbeddingInput(task.encode(raw))
    if not whole.length:
        raise BundleError(f"{bundle.manifest.name}: an empty input has no embedding")
    vector: NDArray[np.float32]
    (vector,) = task.decode([whole], bundle.model.run(task.collate([whole])))
    return vector
