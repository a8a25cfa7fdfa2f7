"""A graph with a speller: the vectors of out-of-vocabulary (OOV) words come from a second graph, through a cache.

A vector depends on the characters and n-grams of its word alone, so it has the same bits in every sentence.
N OOV words, C characters, G n-grams, E numbers of a vector.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from models.codecs.base import PADDING
from models.onnx_session import Array, OnnxModel, Placement

OOV_VECTORS = "oov_vectors"  # (N, E): output of the speller, and input of the graph
# Inputs (C, N) and (G, N) with a column for each word, and the inputs (N,) with the lengths of these columns.
LENGTHS = {"spellings": "spelling_lengths", "subwords": "subword_counts"}
CACHE_ENTRIES = 16_384  # words; each takes about 1 KB

Key = tuple[bytes, ...]


class ModelWithSpeller(OnnxModel):
    """An inference session that takes OOV words as characters and n-grams, though its graph takes their vectors.

    The speller runs for words that are not in the cache. The cache keeps the `cache_entries` words that were used last.
    Raises ValueError if the two graphs do not fit together.
    """

    def __init__(
        self, graph: bytes, speller: bytes, placement: Placement | None = None, *, cache_entries: int = CACHE_ENTRIES
    ) -> None:
        super().__init__(graph, placement)
        self._speller = OnnxModel(speller, placement)
        read, own = set(self._speller.inputs), [name for name in self.inputs if name != OOV_VECTORS]
        self._columns = [name for name in LENGTHS if name in read]
        pairs = {name for column in self._columns for name in (column, LENGTHS[column])}
        if read != pairs or self._speller.outputs != (OOV_VECTORS,):
            raise ValueError(
                f"the speller has inputs {sorted(read)} and outputs {list(self._speller.outputs)}, but needs columns "
                f"with their lengths and the output {OOV_VECTORS!r}; export the bundle again"
            )
        if OOV_VECTORS not in self.inputs or not read.isdisjoint(own):
            raise ValueError(
                f"the graph has inputs {sorted(self.inputs)}, but needs {OOV_VECTORS!r} instead of those of its "
                f"speller, {sorted(read)}; export the bundle again"
            )
        self.inputs, self._read = (*own, *self._speller.inputs), frozenset(read)
        padding = {name: np.full((1, 1), PADDING, np.int32) for name in self._columns}
        # What a batch without OOV words has instead of vectors, because an axis must not be empty.
        self._no_words = self._speller.run_list(
            padding | {LENGTHS[name]: np.ones(1, np.int32) for name in self._columns}
        )[0]
        self._cache_entries = cache_entries
        # Bytes are cheaper to split and to join than arrays. The word that was used last is at the end.
        self._cache: OrderedDict[Key, bytes] = OrderedDict()
        self._lock = Lock()  # batches run on the event loop and in threads
        self.words = self.spelled = 0  # OOV words so far, and those that were not in the cache

    def graph_feeds(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the feeds of the graph: the vectors of OOV words instead of their characters and n-grams."""
        own = {name: array for name, array in feeds.items() if name not in self._read}
        columns = [feeds[name] for name in self._columns]
        empty = all([array.size == 1 and array.item() == PADDING for array in columns])
        own[OOV_VECTORS] = self._no_words if empty else self._vectors(feeds)
        return own

    def _vectors(self, feeds: Mapping[str, Array]) -> Array:
        """Return the vectors (N, E) of OOV words, from the cache or from the speller."""
        keys = list(zip(*(_unpadded(feeds[name], feeds[LENGTHS[name]]) for name in self._columns), strict=True))
        vectors, fresh = self._cached(keys), {}
        if None in vectors:
            missing = {key: place for place, key in enumerate(keys) if vectors[place] is None}
            fresh = dict(zip(missing, self._spell(feeds, list(missing.values())), strict=True))
            vectors = [vector or fresh[key] for key, vector in zip(keys, vectors, strict=True)]
        self._keep(fresh, words=len(keys))
        return np.frombuffer(b"".join(vectors), np.float32).reshape(len(keys), -1)

    def run_list(self, feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Run once and return the arrays in the order of `outputs`."""
        return super().run_list(self.graph_feeds(feeds))

    def take_counts(self) -> tuple[int, int]:
        """Return how many OOV words were cached and how many were spelled since the last call."""
        with self._lock:
            counts = self.words - self.spelled, self.spelled
            self.words = self.spelled = 0
        return counts

    def clear_cache(self) -> None:
        """Remove all words from the cache, for measurements."""
        with self._lock:
            self._cache.clear()

    def _cached(self, keys: list[Key]) -> list[Any]:
        """Return the vector of each word in the bytes of float32, None if it is not in the cache."""
        cache = self._cache
        with self._lock:
            vectors = list(map(cache.get, keys))
            for key, vector in zip(keys, vectors, strict=True):
                if vector is not None:
                    cache.move_to_end(key)
        return vectors

    def _keep(self, fresh: Mapping[Key, bytes], *, words: int) -> None:
        """Count the words of a batch, add the fresh vectors to the cache, and remove those used the longest time ago.

        Both counts grow at once: `take_counts` can run in another thread while the speller runs.
        """
        with self._lock:
            self.words += words
            self.spelled += len(fresh)
            self._cache.update(fresh)
            while len(self._cache) > self._cache_entries:
                self._cache.popitem(last=False)

    def _spell(self, feeds: Mapping[str, Array], places: list[int]) -> list[bytes]:
        """Return the vectors of the words in some columns, whatever is in the cells after their lengths."""
        columns = {name: feeds[name] for name in self._speller.inputs}
        if len(places) < columns[LENGTHS[self._columns[0]]].size:
            columns = {name: array.take(places, axis=-1) for name, array in columns.items()}
        for name in self._columns:  # a client can send tensors with other cells than padding, which no key contains
            cells, lengths = columns[name], columns[LENGTHS[name]]
            columns[name] = np.where(np.arange(len(cells))[:, None] < lengths, cells, np.int32(PADDING))
        (vectors,) = self._speller.run_list(columns)  # (len(places), E)
        content, size = vectors.tobytes(), vectors[0].nbytes
        return [content[at : at + size] for at in range(0, len(content), size)]


def _unpadded(columns: Array, lengths: Array) -> list[bytes]:
    """Return the bytes of each column of (C, N) or (G, N), without its padding."""
    content, item = columns.T.tobytes(), columns.itemsize
    starts = range(0, len(content), item * len(columns))
    return [content[at : at + item * length] for at, length in zip(starts, lengths.tolist(), strict=True)]
