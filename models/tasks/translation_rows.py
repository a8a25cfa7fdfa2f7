"""The rows of several searches, which advance together, and the memory that they read.

A source has one column of the memory, however many rows its search has. S steps, M columns, B rows, W width.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.codecs.base import Ints
from models.state import State
from models.tasks.beam_search import BeamSearch, StepOutputs
from models.tasks.translate import Memory, ReadSource, TranslatedSource, Translator

STEPS = 16  # the capacity for steps is a multiple of this


class MemoryColumns:
    """The memory of the sources in a batch. Columns are reused. The steps in use are those of the longest source."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._arrays: tuple[NDArray[np.float32], ...] = ()  # (capacity of steps, capacity of columns, W)
        self._lengths: Ints = np.zeros(0, np.int32)
        self._used: dict[int, int] = {}  # column -> steps
        self._free: list[int] = []

    @property
    def memory(self) -> Memory:
        """All columns. Those that are not in use have any content."""
        steps = max(self._used.values(), default=0)
        return Memory(tuple(array[:steps] for array in self._arrays), self._lengths)  # (S, M, W), contiguous

    def add(self, memory: Sequence[NDArray[np.float32]]) -> int:
        """Add the memory (S, W) of one source. Returns its column."""
        steps = len(memory[0])
        self._reserve(steps, memory)
        column = self._free.pop()
        self._used[column] = steps
        self._lengths[column] = steps
        for array, new in zip(self._arrays, memory, strict=True):
            array[:steps, column] = new
            array[steps:, column] = 0
        return column

    def free(self, column: int) -> None:
        """Free a column. Without sources, there are no arrays either."""
        del self._used[column]
        self._free.append(column)
        if not self._used:
            self._clear()

    def _reserve(self, steps: int, like: Sequence[NDArray[np.float32]]) -> None:
        """Make room for one more column of so many steps."""
        old_steps, old_columns = self._arrays[0].shape[:2] if self._arrays else (0, 0)
        if self._free and steps <= old_steps:
            return
        columns = old_columns if self._free else max(1, 2 * old_columns)
        capacity = max(old_steps, -(-steps // STEPS) * STEPS)
        arrays = []
        for number, new in enumerate(like):
            array = np.zeros((capacity, columns, new.shape[1]), new.dtype)
            if self._arrays:
                array[:old_steps, :old_columns] = self._arrays[number]
            arrays.append(array)
        self._arrays = tuple(arrays)
        self._free += range(old_columns, columns)
        self._lengths = np.concatenate([self._lengths, np.zeros(columns - old_columns, np.int32)])


class TranslationRows:
    """Searches that advance together. `texts` are in the order of their rows."""

    def __init__(self, model: Translator) -> None:
        self.texts: list[BeamSearch] = []
        self._model = model
        self._rows: list[int] = []  # of each text
        self._column: list[int] = []  # of each text, in the memory
        self._state: State = ()  # (B, width)
        self._columns = MemoryColumns()
        self._owners: Ints | None = None  # (B,) None after the rows have changed

    @property
    def count(self) -> int:
        """Rows of the next step."""
        return sum(self._rows)

    def join(self, text: BeamSearch, read: ReadSource) -> None:
        """Add a search of one row, whose source was read."""
        self._column.append(self._columns.add(read.memory))
        self._state = states.join([self._state, read.state]) if self.texts else read.state
        self.texts.append(text)
        self._rows.append(1)
        self._owners = None

    def remove(self, index: int) -> None:
        """Remove a search. The later ones move."""
        first = sum(self._rows[:index])
        if rows := self._rows[index]:
            self._state = tuple(np.delete(array, np.s_[first : first + rows], axis=0) for array in self._state)
        self._columns.free(self._column[index])
        for values in (self.texts, self._rows, self._column):
            del values[index]
        self._owners = None

    def step(self) -> tuple[list[int], dict[int, Exception]]:
        """Advance every search by one piece.

        Returns the places of the searches that are over, and the errors of those that failed. None has rows any more;
        remove them before the next step.
        """
        try:
            outputs, after = self._run(slice(None), self.texts, self._columns.memory, self._owners_of_rows())
        except Exception:  # find the search at fault, and let the others continue
            return self._step_by_text()
        done: list[int] = []
        failed: dict[int, Exception] = {}
        parents: list[int] = []
        first = 0
        for index, text in enumerate(self.texts):
            rows = self._rows[index]
            try:
                found = text.advance(outputs, first)
            except Exception as error:  # whatever it is, the search must end
                failed[index], found = error, []
            else:
                if not found:
                    done.append(index)
            if len(found) != rows:
                self._rows[index], self._owners = len(found), None
            parents += found
            first += rows
        self._state = after if parents == list(range(first)) else states.take(after, parents)
        return done, failed

    def _step_by_text(self) -> tuple[list[int], dict[int, Exception]]:
        """Take one step text by text: slow, and used only when the batch failed as a whole."""
        done: list[int] = []
        failed: dict[int, Exception] = {}
        parts: list[State] = []
        memory, first = self._columns.memory, 0
        for index, (text, column) in enumerate(zip(self.texts, self._column, strict=True)):
            rows = slice(first, first + self._rows[index])
            first = rows.stop
            try:
                own = Memory(tuple(array[:, [column]] for array in memory.arrays), memory.lengths[[column]])
                outputs, after = self._run(rows, [text], own, np.zeros(rows.stop - rows.start, np.int32))
                found = text.advance(outputs, 0)
            except Exception as error:  # whatever it is, the search must end
                failed[index], found = error, []
            else:
                parts.append(states.take(after, found))
                if not found:
                    done.append(index)
            self._rows[index] = len(found)
        self._state, self._owners = states.join(parts) if parts else states.take(self._state, []), None
        return done, failed

    def _run(self, rows: slice, texts: list[BeamSearch], memory: Memory, owners: Ints) -> tuple[StepOutputs, State]:
        """Run the decoder on some rows. Raises ValueError unless it returns all of them."""
        pieces = np.array([piece for text in texts for piece in text.pieces], np.int32)
        outputs, after = self._model.step(
            pieces,
            tuple(array[rows] for array in self._state),
            memory,
            owners,
            attention=any(text.options.details for text in texts),
            log_probabilities=any(text.is_forced for text in texts),
        )
        if len(outputs.best_pieces) != len(pieces):
            raise ValueError(f"{len(outputs.best_pieces)} rows of results for {len(pieces)} rows of input")
        return outputs, after

    def _owners_of_rows(self) -> Ints:
        if self._owners is None:
            self._owners = np.repeat(np.array(self._column, np.int32), self._rows)
        return self._owners


def search(model: Translator, texts: Sequence[TranslatedSource]) -> None:
    """Run some searches together until all are over. Empty sources are not run. Raises the error of one that fails."""
    texts = [text for text in texts if text.source.length]
    if not texts:
        return
    rows = TranslationRows(model)
    for text, read in zip(texts, model.read([text.source.rows for text in texts]), strict=True):
        rows.join(text, read)
    while rows.texts:
        done, failed = rows.step()
        for error in failed.values():
            raise error
        for index in reversed(done):
            rows.remove(index)
