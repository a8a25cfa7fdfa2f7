"""Translation with the graphs of a published translator, fp32 and int8, in any order of events.

Each request is answered once, with the bits that each of its sources has alone.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import bundle
from models.codecs.pieces import END
from models.onnx_session import OnnxModel
from models.tasks.beam_search import BeamSearch
from models.tasks.translate import Memory, Translation, Translator
from service.errors import Overloaded, Unavailable
from tests.support import bundles
from tests.support.scheduling import Client, FakeClock, Interleaving, check_outcome
from tests.support.translation import TranslationHarness, searched_alone
from training import recipe as recipes
from training.initial_bundle import InitialBundle
from training.nn.networks import make_network
from training.onnx_export.network_graph import export_graph

NAME = "de-en"
PUBLISHED = Path(__file__).resolve().parents[3] / "models" / "zoo" / NAME
TEXTS = (
    "Hund",
    "Zwei junge weiße Männer sind im Freien in der Nähe vieler Büsche.",
    "Ein Mann schläft auf einem Sofa.",
    "Drei Kinder spielen mit einem Hund im Schnee.",
    "Eine Frau in einem roten Kleid steht vor einem kleinen Haus und liest ein Buch.",
    "☃ 你好",
    "Ein kleines Mädchen",
)
NEIGHBORS = tuple(f"{text} {word}".strip() for text in TEXTS[:4] for word in ("", *"abcdefghijklmno"))
BAD_SOURCE = 6  # place in TEXTS
MOST_PIECES = 24

Rows = NDArray[np.int32]
Found = list[tuple[list[int], list[float], list[bytes], float, str]]


@dataclass
class FailingTranslator:
    """A translator that fails for some sources and after some pieces, and whose scores are NaN after others."""

    translator: Translator
    clock: FakeClock = field(default_factory=FakeClock)
    bad_source: bytes = b""
    bad_pieces: set[int] = field(default_factory=set)
    nan_pieces: set[int] = field(default_factory=set)

    def read(self, sources: list[Rows]) -> Any:
        self.clock.now_s += 0.001
        if any(source.tobytes() == self.bad_source for source in sources):
            raise ValueError("a bad source")
        return self.translator.read(sources)

    def step(self, pieces: Rows, *args: Any, **wanted: bool) -> Any:
        self.clock.now_s += 0.001
        if self.bad_pieces.intersection(pieces.tolist()):
            raise ValueError("a bad row")
        outputs, after = self.translator.step(pieces, *args, **wanted)
        outputs.best_scores[np.isin(pieces, list(self.nan_pieces))] = np.nan
        return outputs, after


class Graphs:
    """The graphs of one variant, and what they translate without a batch."""

    def __init__(self, task: Translation, translator: Translator) -> None:
        self.task, self.translator = task, translator
        self.alone: Callable[..., Found] = cache(self._alone)

    def rows(self, text: str) -> Rows:
        return self.task.encode(text).rows

    def _alone(self, text: str, **options: Any) -> Found:
        return bits(searched_alone(self.translator, self.rows(text), **options), len(self.rows(text)))

    def failing(self, clock: FakeClock) -> FailingTranslator:
        return FailingTranslator(self.translator, clock, bad_source=self.rows(TEXTS[BAD_SOURCE]).tobytes())


def bits(search: BeamSearch, steps: int) -> Found:
    """Return all that a search found. The attention is cut to the steps of its source."""
    return [
        (
            each.pieces,
            each.log_probabilities,
            [row[:steps].tobytes() for row in each.attention],
            each.score,
            each.finish_reason,
        )
        for each in search.finished
    ]


def found_by(client: Client, graphs: Graphs, texts: list[str]) -> list[Found]:
    return [bits(search, len(graphs.rows(text))) for search, text in zip(client.job.results, texts, strict=True)]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def graphs(request: pytest.FixtureRequest) -> Graphs:
    """Return the published graphs, and fp32 graphs with the same weights."""
    opened = bundle.load(PUBLISHED, placement=bundles.CPU)
    assert isinstance(opened.task, Translation)
    if request.param == "int8":
        return Graphs(opened.task, opened.translator)
    recipe = recipes.load(NAME, init=str(PUBLISHED))
    start = InitialBundle.open(recipe)
    assert start is not None
    network = make_network(recipe.architecture, start.codec, task=recipe.task).eval()
    start.read_into(network)
    step = export_graph(network, "fp32")
    assert step.reader is not None
    models = [OnnxModel(part.model.SerializeToString(), bundles.CPU) for part in (step.reader, step)]
    return Graphs(opened.task, Translator(opened.task, *(model.run_named for model in models)))


class Translations(Interleaving):
    """Each admitted client must get the bits that its sources have alone."""

    def __init__(self, graphs: Graphs, dispatch_s: float) -> None:
        model = graphs.failing(FakeClock())
        harness = TranslationHarness(model=model, slots=8, queue_items=6, prefill_tokens=60, dispatch_s=dispatch_s)
        model.clock = harness.clock
        super().__init__(harness)
        self.graphs, self.model = graphs, model

    def ask(self, places: list[int], beams: tuple[int, int], timeout_s: float, options: dict[str, Any]) -> None:
        texts = [TEXTS[place] for place in places]
        options = {**options, "num_beams": beams[0], "num_return_sequences": beams[1]}
        with suppress(Overloaded, Unavailable):
            client = self.harness.ask_rows(*map(self.graphs.rows, texts), timeout_s=timeout_s, **options)
            self.admitted.append((client, (texts, options)))

    def break_rows(self, place: int) -> None:
        self.model.bad_pieces.add(self._second_piece(place))

    def spoil_rows(self, place: int) -> None:
        self.model.nan_pieces.add(self._second_piece(place))

    def _second_piece(self, place: int) -> int:
        """Return a piece that the greedy target of a text has."""
        ((pieces, *_),) = self.graphs.alone(TEXTS[place], max_new_tokens=MOST_PIECES)
        return pieces[1]


PLACES = st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=3)
OPTIONS = st.fixed_dictionaries(
    {"max_new_tokens": st.sampled_from([4, MOST_PIECES])},
    optional={"length_penalty": st.just(2.0), "prefix": st.just((300, 400)), "details": st.just(True)},
)
ASK = st.tuples(
    st.just("ask"),
    PLACES,
    st.sampled_from([(1, 1), (1, 1), (2, 1), (5, 5), (8, 2)]),
    st.sampled_from([0.01, 1e9, 1e9]),
    OPTIONS,
)
WORK = st.tuples(st.sampled_from(["take", "complete"] * 6 + ["close"]))
DISCONNECT = st.tuples(st.just("disconnect"), st.integers(0, 50))
BREAK = st.tuples(st.sampled_from(["break_rows", "spoil_rows"]), st.integers(0, BAD_SOURCE - 1))
ACTIONS = st.one_of(ASK, ASK, ASK, WORK, WORK, WORK, DISCONNECT, BREAK)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(ACTIONS, max_size=40), dispatch_s=st.sampled_from([0.0, 0.004]))
def test_no_interleaving_loses_swaps_or_changes_a_target(
    graphs: Graphs, actions: list[tuple[Any, ...]], dispatch_s: float
) -> None:
    interleaving = Translations(graphs, dispatch_s)
    interleaving.run(actions)
    model = interleaving.model
    for client, (texts, options) in interleaving.admitted:
        is_bad = TEXTS[BAD_SOURCE] in texts
        check_outcome(client, may_fail=is_bad or bool(model.bad_pieces | model.nan_pieces))
        if client.error is None:
            assert found_by(client, graphs, texts) == [graphs.alone(text, **options) for text in texts]


def test_63_neighbors_change_no_bit(graphs: Graphs) -> None:
    asked = [{"num_beams": 1 + number % 3, "max_new_tokens": 12, "details": True} for number in range(len(NEIGHBORS))]
    harness = TranslationHarness(model=graphs.failing(FakeClock()), slots=512)
    rows = map(graphs.rows, NEIGHBORS)
    clients = [harness.ask_rows(source, **options) for source, options in zip(rows, asked, strict=True)]
    harness.run_all()
    for client, text, options in zip(clients, NEIGHBORS, asked, strict=True):
        assert found_by(client, graphs, [text]) == [graphs.alone(text, **options)]


@pytest.mark.parametrize("text", TEXTS)
def test_one_beam_is_the_most_probable_piece_at_each_step(graphs: Graphs, text: str) -> None:
    rows = graphs.rows(text)
    ((state, parts),) = graphs.translator.read([rows])
    memory = Memory(tuple(part[:, None] for part in parts), np.array([len(rows)], np.int32))
    pieces, scores = [END], []
    while len(pieces) <= MOST_PIECES and (len(pieces) == 1 or pieces[-1] != END):
        newest, owner = np.array(pieces[-1:], np.int32), np.zeros(1, np.int32)
        outputs, state = graphs.translator.step(newest, state, memory, owner, log_probabilities=True)
        assert outputs.log_probabilities is not None
        pieces.append(int(outputs.log_probabilities.argmax()))
        scores.append(float(outputs.log_probabilities.max()))
    ((found, log_probabilities, *_),) = graphs.alone(text, num_beams=1, max_new_tokens=MOST_PIECES)
    assert found == [piece for piece in pieces if piece != END]
    assert log_probabilities == scores
