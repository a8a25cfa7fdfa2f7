"""A translator behind Starlette with twenty lines of batching, as people write it.

python -m uvicorn loadtest.peers.translator:app --no-access-log --port 8000

One task collects up to PEER_MAX_BATCH requests, waits up to PEER_WAIT_MS for more, and decodes them greedily in one
thread. It has the graphs of the bundle, so both sides do the same work. A batch is decoded until its last target ends,
and the next one waits for that. This is how CTranslate2 and OpenNMT-py batch.
"""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loadtest.peers.asgi import make_batching_app
from models.bundle import load
from models.codecs.pieces import END
from models.onnx_session import Placement
from models.tasks import Translation
from models.tasks.translate import EncodedSource, Memory

BUNDLE = os.environ.get("PEER_BUNDLE", "models/zoo/en-de")
VARIANT = os.environ.get("PEER_VARIANT", "fp32")
MOST_TOKENS = 100


class BatchTranslator:
    """Greedy decoding of static batches. B rows."""

    def __init__(self) -> None:
        bundle = load(BUNDLE, variant=VARIANT, placement=Placement(device="cpu", threads=1))
        assert isinstance(bundle.task, Translation)
        self._task, self._model = bundle.task, bundle.translator

    def encode(self, text: str) -> EncodedSource:
        return self._task.encode(text)

    def answer(self, sources: Sequence[EncodedSource]) -> list[list[dict[str, str]]]:
        """Return the translation of each source, in the shape of Hugging Face."""
        read = self._model.read([source.rows for source in sources])
        lengths = np.array([len(source.rows) for source in sources], np.int32)
        arrays = []
        for number in range(len(read[0].memory)):
            parts = [each.memory[number] for each in read]
            array = np.zeros((int(lengths.max()), len(parts), parts[0].shape[1]), np.float32)
            for column, part in enumerate(parts):
                array[: len(part), column] = part
            arrays.append(array)
        state = tuple(np.concatenate(parts) for parts in zip(*(each.state for each in read), strict=True))
        memory, owners = Memory(tuple(arrays), lengths), np.arange(len(sources), dtype=np.int32)
        pieces = np.full(len(sources), END, np.int32)
        written: list[NDArray[np.int32]] = []
        ended = np.zeros(len(sources), bool)
        while not ended.all() and len(written) < MOST_TOKENS:
            outputs, state = self._model.step(pieces, state, memory, owners)
            pieces = outputs.best_pieces[:, 0]
            written.append(pieces)
            ended |= pieces == END
        rows = np.array(written).T.tolist()  # (B, steps)
        ends = [row.index(END) if END in row else len(row) for row in rows]
        decode = self._task.codec.decode
        return [[{"translation_text": decode(row[:end])}] for row, end in zip(rows, ends, strict=True)]


app = make_batching_app("/translate", BatchTranslator)
