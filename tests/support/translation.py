"""A translator without weights, whose targets depend on their source and on every piece before, and its scheduler."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.state import State
from models.tasks.beam_search import BeamSearch, StepOutputs, TranslateOptions
from models.tasks.translate import Memory, ReadSource
from service.scheduling.cost_model import CostModel
from service.scheduling.decoding import DecodingScheduler
from service.scheduling.decoding_batch import DecodingLimits
from service.scheduling.translation_batch import TranslationBatch
from tests.support.scheduling import Client, FakeClock, Harness

PIECES, CANDIDATES = 24, 16
MODULUS = 997
BAD_LETTER = "!"  # a source with it cannot be read


def _table() -> NDArray[np.float32]:
    """Return the log-probabilities (MODULUS, PIECES) of what follows each state. The end is likely."""
    logits = np.random.default_rng(1).normal(0, 2, (MODULUS, PIECES))
    logits[:, 0] += 2
    table: NDArray[np.float32] = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
    return table


TABLE = _table()


def source_rows(source: str) -> NDArray[np.int32]:
    return np.array([*map(ord, source), 0], np.int32)


def source_number(rows: Any) -> int:
    number = 7
    for row in rows:
        number = (number * 31 + int(row)) % MODULUS
    return number


def next_number(number: int, piece: int) -> int:
    """Return a hash of all pieces so far, so that no two hypotheses share a state for long."""
    return (number * 31 + piece + 1) % MODULUS


class FakeTranslator:
    """Duck-types Translator. Its state is one number a row, and its memory the source itself."""

    def __init__(self, clock: FakeClock, seconds: float = 0.001) -> None:
        self.clock, self.seconds = clock, seconds
        self.reads: list[int] = []  # sources of each call
        self.steps: list[int] = []  # rows of each call
        self.bad_numbers: set[int] = set()  # of the row on which it raises
        self.nan_numbers: set[int] = set()  # of the row whose scores are NaN

    def read(self, sources: list[NDArray[np.int32]]) -> list[ReadSource]:
        self.clock.now_s += self.seconds
        self.reads.append(len(sources))
        if any(ord(BAD_LETTER) in source for source in sources):
            raise ValueError("a bad source")
        return [
            ReadSource(
                (np.array([[source_number(source)]], np.float32),),
                (np.repeat(source[:, None], 2, axis=1).astype(np.float32), source[:, None].astype(np.float32)),
            )
            for source in sources
        ]

    def step(
        self,
        pieces: NDArray[np.int32],
        state: State,
        memory: Memory,
        owners: NDArray[np.int32],
        *,
        attention: bool = False,
        log_probabilities: bool = False,
    ) -> tuple[StepOutputs, State]:
        self.clock.now_s += self.seconds
        self.steps.append(len(pieces))
        rows = []
        for row, (piece, owner) in enumerate(zip(pieces.tolist(), owners.tolist(), strict=True)):
            read = [array[: memory.lengths[owner], owner, 0] for array in memory.arrays]
            assert (read[0] == read[1]).all()
            rows.append((next_number(int(state[0][row, 0]), piece), source_number(read[0])))
        numbers = [number for number, _ in rows]
        if self.bad_numbers.intersection(numbers):
            raise ValueError("a bad row")
        logs = np.array([TABLE[(number + source) % MODULUS] for number, source in rows])
        logs[[row for row, number in enumerate(numbers) if number in self.nan_numbers]] = np.nan
        best = np.argsort(-logs, axis=1, kind="stable")[:, :CANDIDATES].astype(np.int32)
        scores = np.take_along_axis(logs, best, axis=1)
        steps = len(memory.arrays[0])
        weights = np.array([np.arange(steps) == number % steps for number in numbers], np.float32)
        outputs = StepOutputs(scores, best, weights if attention else None, logs if log_probabilities else None)
        return outputs, (np.array(numbers, np.float32)[:, None],)


Found = list[tuple[list[int], float, str]]  # pieces, score and reason of each target


def targets(text: BeamSearch) -> Found:
    return [(each.pieces, each.score, each.finish_reason) for each in text.finished]


def translated_alone(source: str, **options: Any) -> Found:
    """Return the targets of a source whose search runs without a batch."""
    return targets(searched_alone(FakeTranslator(FakeClock()), source_rows(source), **options))


def searched_alone(model: Any, rows: NDArray[np.int32], **options: Any) -> BeamSearch:
    """Return the finished search for the targets of a source, which runs without a batch."""
    text = BeamSearch(TranslateOptions(**options))
    ((state, parts),) = model.read([rows])
    memory = Memory(tuple(part[:, None] for part in parts), np.array([len(rows)], np.int32))
    while text.rows:
        owners = np.zeros(text.rows, np.int32)
        outputs, after = model.step(
            np.array(text.pieces, np.int32), state, memory, owners, attention=True, log_probabilities=True
        )
        parents = text.advance(outputs, 0)
        state = (after[0][parents],)
    return text


def number_after(source: str, pieces: list[int]) -> int:
    """Return the number of the row whose hypothesis has these pieces, when the next one is chosen."""
    number = source_number(source_rows(source))
    for piece in (0, *pieces):
        number = next_number(number, piece)
    return number


class TranslationHarness(Harness):
    """Each dispatch is one step, unless `dispatch_s` says otherwise."""

    def __init__(self, *, dispatch_s: float = 0.0, model: Any = None, **limits: int) -> None:
        super().__init__()
        self.model = FakeTranslator(self.clock) if model is None else model
        batch = TranslationBatch(
            self.model,
            limits=DecodingLimits(dispatch_s=dispatch_s, **limits),
            clock=self.clock,
            metrics=self.metrics,  # type: ignore[arg-type]
            cost=CostModel(),
        )
        self.scheduler = DecodingScheduler(batch)

    def ask(self, *sources: str, timeout_s: float = 1e9, **options: Any) -> Client:
        return self.ask_rows(*map(source_rows, sources), timeout_s=timeout_s, **options)

    def ask_rows(self, *sources: NDArray[np.int32], timeout_s: float = 1e9, **options: Any) -> Client:
        asked = TranslateOptions(**options)
        items = [(rows, BeamSearch(asked)) for rows in sources]
        return Client(self.clock, timeout_s=timeout_s).submit(self.scheduler, items)

    def run_all(self) -> None:
        super().run_all()
        assert not self.scheduler.used_slots


def found_by(client: Client) -> list[Found]:
    return [targets(text) for text in client.job.results]
