"""Every variant of every bundle in models/zoo: self-test, and bit-identical rows alone and in random ragged batches.

T steps, B batch, V vocabulary.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models import bundle, self_test, state
from models.bundle import Bundle
from models.codecs import Codec
from models.codecs.base import pad
from models.codecs.characters import CODES, CharactersCodec, DnaCodec
from models.codecs.frames import FramesCodec
from models.codecs.words import WordsCodec
from models.manifest import MANIFEST_FILE, SERVES, TaskName, Tensor, read
from models.state import State
from models.tasks import Filling, Generation, StreamChunk, Tagging, Translation
from models.tasks.beam_search import TranslateOptions
from models.tasks.translate import Memory, ReadSource, TranslatedSource
from models.tasks.translation_rows import search
from tests.support import bundles

ZOO = Path(__file__).resolve().parents[2] / "models" / "zoo"
FOUND = [read(path.parent) for path in sorted(ZOO.glob(f"*/{MANIFEST_FILE}"))]

# A bundle takes a second or more to load, and a batch of 33 some 60 ms to run row by row.
THOROUGH = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
LENGTHS = st.integers(1, 33).flatmap(lambda rows: st.lists(st.integers(1, 60), min_size=rows, max_size=rows))
SEED = st.integers(0, 2**32 - 1)
LETTERS = "aeiouxyz-'0ÉßЖ字\u0301\U0001f642"


@cache
def opened(name: str, variant: str) -> Bundle:
    return bundle.load(ZOO / name, variant=variant, placement=bundles.CPU)


def variants(*tasks: TaskName) -> pytest.MarkDecorator:
    """Run a test for each shipped variant of these tasks."""
    names = [(manifest.name, variant) for manifest in FOUND if manifest.task in tasks for variant in manifest.variants]
    return pytest.mark.parametrize(("name", "variant"), names)


def test_zoo_has_every_task() -> None:
    if not FOUND:
        pytest.skip(f"no bundle in models/zoo: `seqserve export` puts one there ({ZOO})")
    assert {manifest.task for manifest in FOUND} >= {"tag", "classify", "generate"}


@variants(*SERVES)
def test_bundle_passes_self_test(name: str, variant: str) -> None:
    self_test.run(opened(name, variant))


def raw_inputs(codec: Codec, lengths: Sequence[int], random: np.random.Generator) -> list[Any]:
    """Return random inputs of these lengths, known and unknown."""
    if isinstance(codec, WordsCodec):
        return [[_word(codec, random) for _ in range(length)] for length in lengths]
    if isinstance(codec, FramesCodec):
        # Cubed, so that some are far outside of the training data.
        return [(random.normal(0, 2, (n, codec.spec.features)) ** 3).tolist() for n in lengths]
    letters = [*CODES] if isinstance(codec, DnaCodec) else [*codec.characters, *LETTERS]
    return ["".join(random.choice(letters, length)) for length in lengths]


def _word(codec: WordsCodec, random: np.random.Generator) -> str:
    """Return a known word, a known word in upper case, or a random one."""
    chance = random.random()
    if chance < 0.8:
        known = codec.words[int(random.integers(len(codec.words)))]
        return known.upper() if chance < 0.1 else known
    return "".join(random.choice(list(LETTERS), int(random.integers(1, 40))))


@variants("tag", "classify", "joint")
@THOROUGH
@given(lengths=LENGTHS, seed=SEED)
def test_row_does_not_depend_on_the_batch(name: str, variant: str, lengths: list[int], seed: int) -> None:
    loaded = opened(name, variant)
    task, longest = loaded.task, loaded.manifest.max_length
    assert not isinstance(task, Generation)
    raw = raw_inputs(task.codec, [min(length, longest) for length in lengths], np.random.default_rng(seed))
    items = [task.encode(each) for each in raw]

    def rows(batch: int) -> list[list[NDArray[Any]]]:
        """Return every output of each item, (T, K), (T,) or (K,), run in batches of this size."""
        found = []
        for first in range(0, len(items), batch):
            part = items[first : first + batch]
            outputs = loaded.model.run(task.collate(part))
            for column, item in enumerate(part):
                found.append(
                    [_of_row(tensor, outputs[tensor.name], column, item) for tensor in loaded.manifest.outputs]
                )
        return found

    together = rows(len(items))
    for row, alone in enumerate(rows(1)):
        assert all(map(np.array_equal, together[row], alone)), f"row {row} of {lengths}, {raw[row]}"


@variants("caption")
def test_a_picture_among_63_others_has_the_bits_that_it_has_alone(name: str, variant: str) -> None:
    loaded = opened(name, variant)
    task, model = loaded.task, loaded.translator
    assert isinstance(task, Translation)
    random = np.random.default_rng(0)
    sources = [task.encode(random.integers(0, 256, (64, 64, 3))).rows for _ in range(64)]
    owners, pieces = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)

    def step(read: Sequence[ReadSource]) -> tuple[NDArray[Any], ...]:
        """Return all outputs of the first step."""
        memory = Memory(
            tuple(np.stack(parts, axis=1) for parts in zip(*(each.memory for each in read), strict=True)),
            np.full(len(read), len(sources[0]), np.int32),
        )
        first = state.join([each.state for each in read])
        columns = slice(len(read))
        outputs, after = model.step(
            pieces[columns], first, memory, owners[columns], attention=True, log_probabilities=True
        )
        return (*outputs, *after)

    together = model.read(sources)
    stepped = step(together)
    for number in range(0, 64, 7):
        (alone,) = model.read([sources[number]])
        found, expected = (*alone.state, *alone.memory), (*together[number].state, *together[number].memory)
        assert all(map(np.array_equal, found, expected))
        assert all(np.array_equal(one[0], many[number]) for one, many in zip(step([alone]), stepped, strict=True))


@variants("fill")
@THOROUGH
@given(lengths=LENGTHS, seed=SEED)
def test_filled_gap_does_not_depend_on_the_batch(name: str, variant: str, lengths: list[int], seed: int) -> None:
    loaded = opened(name, variant)
    task, random = loaded.task, np.random.default_rng(seed)
    assert isinstance(task, Filling)
    items = []
    for words in raw_inputs(task.codec, lengths, random):
        words[int(random.integers(len(words)))] = "[MASK]"
        items.append(task.encode(" ".join(words)))
    together = task.decode(items, loaded.model.run(task.collate(items)))
    for item, row in zip(items, together, strict=True):
        (alone,) = task.decode([item], loaded.model.run(task.collate([item])))
        assert np.array_equal(alone.scores, row.scores)
        assert np.array_equal(alone.words, row.words)


def _of_row(tensor: Tensor, output: NDArray[Any], column: int, item: Any) -> NDArray[Any]:
    """Return the part of an output for one input: (T, …) without the padding, or (…)."""
    return output[: item.length, column] if tensor.shape[:2] == ("T", "B") else output[column]


STREAMS = [(manifest.name, variant) for manifest in FOUND if manifest.streams for variant in manifest.variants]


@pytest.mark.parametrize(("name", "variant"), STREAMS)
@THOROUGH
@given(length=st.integers(1, 60), cuts=st.lists(st.integers(0, 60), max_size=5), seed=SEED)
def test_stream_in_chunks_equals_the_whole(name: str, variant: str, length: int, cuts: list[int], seed: int) -> None:
    loaded = opened(name, variant)
    task = loaded.task
    assert isinstance(task, Tagging)
    (raw,) = raw_inputs(task.codec, [length], np.random.default_rng(seed))
    outputs = loaded.model.run(task.collate([task.encode(raw)]))
    memory, found = task.start(), []
    for first, last in pairwise([0, *sorted(min(cut, length) for cut in cuts), length]):
        if first < last:
            item = task.encode(raw[first:last])
            chunk = StreamChunk(task.last_chunk(item, memory) if task.delay and last == length else item, memory)
            after = loaded.model.run(task.collate([chunk]))
            found.append(after["probabilities"])
            memory = tuple(after[tensor.output] for tensor in task.state)
    assert np.array_equal(np.concatenate(found), outputs["probabilities"])
    assert all(np.array_equal(part, outputs[t.output]) for t, part in zip(task.state, memory, strict=True))


Logs = NDArray[np.float32]
Tokens = NDArray[np.int32]


class Reader:
    """Advances rows of tokens from their states, in one batch or one by one."""

    def __init__(self, loaded: Bundle) -> None:
        assert isinstance(loaded.task, Generation)
        self.task, self.run = loaded.task, loaded.model.run_list

    def read(self, rows: Sequence[Tokens], memory: State) -> tuple[Logs, State]:
        tokens, lengths = pad(rows)
        return self.task.advance(self.run, tokens, lengths, memory)

    def alone(self, rows: Sequence[Tokens], memory: State) -> tuple[Logs, State]:
        read = [self.read([row], state.take(memory, [index])) for index, row in enumerate(rows)]
        return np.concatenate([logs for logs, _ in read]), state.join([after for _, after in read])


def texts(codec: CharactersCodec, lengths: Sequence[int], random: np.random.Generator) -> list[Tokens]:
    """Return rows of random tokens, including the unknown token."""
    return [random.integers(1, codec.table_rows, length).astype(np.int32) for length in lengths]


@variants("generate")
@THOROUGH
@given(lengths=LENGTHS, seed=SEED)
def test_prompts_and_steps_do_not_depend_on_the_batch(name: str, variant: str, lengths: list[int], seed: int) -> None:
    random, reader = np.random.default_rng(seed), Reader(opened(name, variant))
    prompts = texts(reader.task.codec, lengths, random)
    together = alone = state.zeros(reader.task.state, len(prompts))
    logs, together = reader.read(prompts, together)
    expected, alone = reader.alone(prompts, alone)
    for _ in range(3):
        assert np.array_equal(logs, expected)
        assert all(map(np.array_equal, together, alone))
        # One step, with the batch split into groups of rows in random order.
        tokens = texts(reader.task.codec, [1] * len(prompts), random)
        order = random.permutation(len(prompts))
        groups = [group for group in np.split(order, np.sort(random.integers(0, len(order), 2))) if len(group)]
        stepped = [reader.read([tokens[row] for row in group], state.take(together, list(group))) for group in groups]
        back = list(np.argsort(order))
        logs = np.concatenate([part for part, _ in stepped])[back]
        together = state.take(state.join([after for _, after in stepped]), back)
        expected, alone = reader.alone(tokens, alone)
    assert np.array_equal(logs, expected)


@variants("generate")
@THOROUGH
@given(lengths=LENGTHS, seed=SEED, piece=st.integers(1, 30))
def test_prompt_in_chunks_equals_the_whole(name: str, variant: str, lengths: list[int], seed: int, piece: int) -> None:
    random, reader = np.random.default_rng(seed), Reader(opened(name, variant))
    prompts = texts(reader.task.codec, lengths, random)
    whole, after = reader.read(prompts, state.zeros(reader.task.state, len(prompts)))
    memory = [state.zeros(reader.task.state, 1) for _ in prompts]
    for first in range(0, max(lengths), piece):
        reading = [row for row, prompt in enumerate(prompts) if first < len(prompt)]
        pieces = [prompts[row][first : first + piece] for row in reading]
        logs, states = reader.read(pieces, state.join([memory[row] for row in reading]))
        for place, row in enumerate(reading):
            memory[row] = state.take(states, [place])
            if first + piece >= len(prompts[row]):
                assert np.array_equal(logs[place], whole[row])
    assert all(map(np.array_equal, state.join(memory), after))


@variants("translate")
@settings(THOROUGH, max_examples=5)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=2, max_size=24),
    beams=st.lists(st.integers(1, 5), min_size=24),
    seed=SEED,
)
def test_translation_does_not_depend_on_the_batch(
    name: str, variant: str, lengths: list[int], beams: list[int], seed: int
) -> None:
    loaded, random = opened(name, variant), np.random.default_rng(seed)
    task = loaded.task
    assert isinstance(task, Translation)
    words = [piece for piece in task.codec.pieces if piece.startswith("▁")]
    texts = [" ".join(random.choice(words, length)).replace("▁", "") for length in lengths]
    asked = [TranslateOptions(num_beams=n, num_return_sequences=n, max_new_tokens=40, details=True) for n in beams]

    def started() -> list[TranslatedSource]:
        return [task.start(task.encode(text), options) for text, options in zip(texts, asked, strict=False)]

    together, alone = started(), started()
    search(loaded.translator, together)
    for one, other in zip(together, alone, strict=True):
        search(loaded.translator, [other])
        assert one.answer() == other.answer()
