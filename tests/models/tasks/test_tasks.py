"""Tasks: from arrays to typed answers."""

import numpy as np
import pytest

from models import codecs
from models import state as states
from models.bundle import Bundle
from models.codecs.characters import CharactersCodec
from models.codecs.words import WordsCodec
from models.manifest import CharactersSpec, FramesSpec, WordsSpec
from models.onnx_session import OnnxModel
from models.sampling import UNIFORMS_BLOCK, SamplingOptions, uniforms
from models.tasks import (
    Classification,
    Entity,
    EntitySpan,
    GeneratedToken,
    Generation,
    GenerationResult,
    LabelScore,
    Tagging,
)
from models.tasks.generate import (
    GeneratedText,
    GenerateOptions,
    GenerationSnapshot,
    InPlaceDecoder,
    TokenSampler,
    snapshot_bytes,
)
from models.tasks.tag import TagRow

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
WORDS = WordsCodec(WordsSpec(), ["a"])
LETTERS = CharactersCodec(CharactersSpec(), "abc")


def spans(*names: str) -> list[tuple[str, int, int]]:
    row = TagRow(labels=[LABELS.index(name) for name in names], scores=[0.5] * len(names))
    return [span[:3] for span in Tagging(WORDS, LABELS, "iob2").spans(row)]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-PER", [("PER", 0, 1)]),
        ("O B-PER I-PER O", [("PER", 1, 3)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("I-PER I-PER", [("PER", 0, 2)]),
        ("O I-LOC B-LOC I-LOC", [("LOC", 1, 2), ("LOC", 2, 4)]),
        ("B-LOC I-LOC I-PER I-PER O", [("LOC", 0, 2), ("PER", 2, 4)]),
    ],
)
def test_find_spans_of_iob2_labels(names: str, found: list[tuple[str, int, int]]) -> None:
    assert spans(*names.split()) == found


def test_span_has_its_text_and_the_mean_score() -> None:
    task = Tagging(WORDS, LABELS, "iob2")
    row = TagRow(labels=[1, 2, 0], scores=[0.9, 0.6, 0.3])
    (entity,) = task.answer(task.encode("Ada  Lovelace wrote"), row)
    assert entity == EntitySpan("PER", 0.75, "Ada  Lovelace", 0, 13)
    assert isinstance(entity, EntitySpan)


def test_spans_of_a_list_of_words_have_word_offsets() -> None:
    task = Tagging(WORDS, LABELS, "iob2")
    (entity,) = task.answer(task.encode(["x", "Ada", "Lovelace"]), TagRow(labels=[0, 1, 2], scores=[1.0, 1.0, 1.0]))
    assert (entity.word, entity.start, entity.end) == ("Ada Lovelace", 1, 3)


def test_aggregation_none_lists_every_word() -> None:
    task = Tagging(WORDS, LABELS, "iob2")
    entities = task.answer(task.encode("a b"), TagRow(labels=[1, 0], scores=[0.5, 0.6]), aggregation="none")
    assert entities == [("B-PER", 0.5, "a", 0, 1), ("O", 0.6, "b", 2, 3)]
    assert isinstance(entities[0], Entity)


def test_tagger_without_scheme_lists_every_word() -> None:
    task = Tagging(WORDS, LABELS)
    entities = task.answer(task.encode("a"), TagRow(labels=[1], scores=[0.5]), aggregation="simple")
    assert entities == [Entity("B-PER", 0.5, "a", 0, 1)]


def test_frames_with_equal_labels_are_merged_on_request() -> None:
    task = Tagging(codecs.build(FramesSpec(features=1), lambda name: ()), ("rest", "walk"))
    item, row = task.encode([[0.0]] * 4), TagRow(labels=[0, 1, 1, 0], scores=[1.0, 0.5, 0.75, 0.25])
    merged = [("rest", 1.0, "", 0, 1), ("walk", 0.625, "", 1, 3), ("rest", 0.25, "", 3, 4)]
    assert task.answer(item, row, aggregation="simple") == merged
    assert [len(task.answer(item, row, aggregation=each)) for each in (None, "none")] == [4, 4]
    assert task.answer(task.encode([]), TagRow(labels=[], scores=[]), aggregation="simple") == []


@pytest.mark.parametrize(("rate", "of_bundle", "end"), [(None, None, 3), (None, 25, 0.12), (7, 25, 0.428571)])
def test_merged_frames_end_at_seconds_if_their_rate_is_known(
    rate: float | None, of_bundle: float | None, end: float
) -> None:
    task = Tagging(codecs.build(FramesSpec(features=1, frame_rate=of_bundle), lambda name: ()), ("rest", "walk"))
    item, row = task.encode([[0.0]] * 3), TagRow(labels=[1, 1, 1], scores=[1.0] * 3)
    assert task.answer(item, row, aggregation="simple", frame_rate=rate) == [("walk", 1.0, "", 0, end)]
    assert task.answer(item, row)[2][3:] == (2, 3)  # single frames are counted


def test_decode_removes_padding() -> None:
    task = Tagging(WORDS, ("A", "B"))
    items = [task.encode("a"), task.encode("a a a")]
    probabilities = np.zeros((3, 2, 2), np.float32)
    probabilities[:, 0] = [[0.25, 0.75], [1, 0], [1, 0]]
    probabilities[:, 1] = [[1, 0], [0, 1], [1, 0]]
    rows = task.decode(items, {"probabilities": probabilities})
    assert [row.labels for row in rows] == [[1], [0, 1, 0]]
    assert [row.scores for row in rows] == [[0.75], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize("raw", ["", " \n", []])
def test_empty_input_has_an_empty_answer(raw: str | list[str]) -> None:
    tagging, classification = Tagging(WORDS, LABELS, "iob2"), Classification(WORDS, ("A", "B"))
    assert tagging.answer(tagging.encode(raw), TagRow(labels=[], scores=[])) == []
    assert classification.answer(classification.encode(raw), [0.5, 0.5]) == []


def test_labels_are_best_first_and_ties_in_label_order() -> None:
    task = Classification(WORDS, ("A", "B", "C"))
    item = task.encode("a")
    assert [entry.label for entry in task.answer(item, [0.25, 0.5, 0.25])] == ["B", "A", "C"]
    assert task.answer(item, [0.25, 0.5, 0.25], top_k=1) == [LabelScore("B", 0.5)]
    assert len(task.answer(item, [0.25, 0.5, 0.25], top_k=100)) == 3


def test_probabilities_are_rounded() -> None:
    task = Classification(WORDS, ("A", "B"))
    outputs = {"probabilities": np.array([[2 / 3, 1 / 3]], np.float32)}
    assert task.decode([task.encode("a")], outputs) == [[0.666667, 0.333333]]


def generated(letters: str, **options: object) -> GeneratedText:
    """Return a text after appending letters until it is finished."""
    text = GeneratedText(LETTERS, "ab", GenerateOptions(**options))  # type: ignore[arg-type]
    for token in LETTERS.encode(letters).rows.tolist():
        if text.append(token):
            break
    return text


def test_text_ends_at_max_new_tokens() -> None:
    text = generated("abcabc", max_new_tokens=4)
    assert (text.text, text.finish_reason) == ("abca", "length")


@pytest.mark.parametrize(
    ("stop", "found"), [(("cab",), "abcab"), (("x", "bc"), "abc"), (("a",), "a"), (("ca", "a"), "a")]
)
def test_text_ends_with_its_stop_string(stop: tuple[str, ...], found: str) -> None:
    text = generated("abcabcabc", stop=stop)
    assert (text.text, text.finish_reason) == (found, "stop")


def test_stop_string_in_the_prompt_is_ignored() -> None:
    assert generated("cc", stop=("ab",), max_new_tokens=2).finish_reason == "length"


def test_stop_string_across_prompt_and_text_is_ignored() -> None:
    assert generated("cc", stop=("bc",), max_new_tokens=2).finish_reason == "length"


def test_result_with_and_without_details() -> None:
    plain = generated("ca", max_new_tokens=2, return_full_text=True)
    assert plain.answer() == GenerationResult("abca")
    options = GenerateOptions(max_new_tokens=1, details=True, sampling=SamplingOptions(seed=7, temperature=0.0))
    text = GeneratedText(LETTERS, "ab", options)
    logs = np.log(np.array([[0.1, 0.1, 0.2, 0.2, 0.4]], np.float32))
    (token,) = TokenSampler([text]).sample(logs)
    assert text.append(int(token))
    details = text.answer().details
    assert details is not None
    assert (details.finish_reason, details.generated_tokens, details.seed) == ("length", 1, 7)
    assert details.tokens == (GeneratedToken(4, "c", pytest.approx(np.log(0.4))),)


def test_text_uses_the_random_stream_of_its_seed() -> None:
    text = GeneratedText(LETTERS, "", GenerateOptions(max_new_tokens=1000, sampling=SamplingOptions(seed=3)))
    stream = np.concatenate([uniforms(3, place) for place in (0, UNIFORMS_BLOCK, 2 * UNIFORMS_BLOCK)])
    for expected in stream:
        assert text.block(text.sampled)[text.sampled % UNIFORMS_BLOCK] == expected
        text.append(2)


def test_prompt_in_chunks_leaves_the_same_state(generator: Bundle) -> None:
    task, run = generator.task, generator.model.run_list
    assert isinstance(task, Generation)
    rows = task.encode("To be, or not").rows[:, None]
    whole, after = task.advance(run, rows, np.array([13], np.int32), states.zeros(task.state, 1))
    state = states.zeros(task.state, 1)
    for chunk in (rows[:1], rows[1:9], rows[9:]):
        found, state = task.advance(run, chunk, np.array([len(chunk)], np.int32), state)
    assert np.array_equal(whole, found)
    assert all(map(np.array_equal, after, state))


def decoder_of(generator: Bundle) -> tuple[InPlaceDecoder, Generation, OnnxModel]:
    """Return a decoder for four rows, its task and its model."""
    task, model = generator.task, generator.model
    assert isinstance(task, Generation)
    assert model.answer_width is not None
    return InPlaceDecoder(task, model.bind, slots=4, vocabulary=model.answer_width), task, model


def test_step_in_place_equals_advance(generator: Bundle) -> None:
    decoder, task, model = decoder_of(generator)
    vocabulary = model.answer_width
    random = np.random.default_rng(0)
    plain = states.zeros(task.state, 0)
    placed = decoder.empty_state
    for rows in (1, 3, 3, 4, 2, 2, 4):
        plain, placed = (tuple(array[:rows] for array in state) for state in (plain, placed))
        if (new := rows - len(plain[0])) > 0:
            joining = tuple(random.uniform(-1, 1, (new, t.width)).astype(np.float32) for t in task.state)
            plain, placed = states.join([plain, joining]), states.append(placed, joining)
        tokens = random.integers(2, vocabulary, rows).astype(np.int32)
        logs, plain = task.advance(model.run_list, tokens[None], np.ones(rows, np.int32), plain)
        found = decoder.step(tokens, placed)
        assert found is not None
        placed = found[1]
        assert np.array_equal(found[0], logs)
        assert all(map(np.array_equal, placed, plain))


def test_step_in_place_refuses_other_arrays(generator: Bundle) -> None:
    decoder, task, _ = decoder_of(generator)
    assert decoder.step(np.array([2], np.int32), states.zeros(task.state, 1)) is None


def test_extend_equals_append() -> None:
    tokens = LETTERS.encode("abca").rows.tolist()
    text, expected = GeneratedText(LETTERS, "", GenerateOptions(max_new_tokens=4)), generated("abca", max_new_tokens=4)
    assert not text.has_stop_strings
    assert not text.extend(tokens[:3])
    assert text.remaining_tokens == 1
    assert text.extend(tokens[3:])
    assert (text.text, text.sampled, text.finish_reason) == (expected.text, expected.sampled, "length")


def test_alternatives_are_best_first_without_impossible_tokens() -> None:
    text = GeneratedText(LETTERS, "", GenerateOptions(alternatives=3, sampling=SamplingOptions(temperature=0.0)))
    with np.errstate(divide="ignore"):
        logs = np.log(np.array([[0, 0, 0.25, 0.75, 0]], np.float32))
    TokenSampler([text]).sample(logs)
    assert [[each for each, _ in step] for step in text.alternatives] == [["b", "a"]]


@pytest.mark.parametrize(("stop", "tail"), [((), "éabca"), (("ca",), "")])
def test_snapshot_survives_packing(generator: Bundle, stop: tuple[str, ...], tail: str) -> None:
    task = generator.task
    assert isinstance(task, Generation)
    options = GenerateOptions(max_new_tokens=4, stop=stop, sampling=SamplingOptions(seed=2**64 - 1))
    text = GeneratedText(LETTERS, "", options, sampled=5, tail="é")
    for token in LETTERS.encode("abca").rows.tolist():
        if text.append(token):
            break
    text.take_snapshot(states.zeros(task.state, 1))
    assert text.snapshot is not None
    data = text.snapshot.pack()
    assert len(data) <= snapshot_bytes(task.state)
    found = GenerationSnapshot.unpack(data, task.state)
    assert (found.token, found.seed, found.sampled, found.tail) == (text.tokens[-1], 2**64 - 1, 9, tail)
    assert all(map(np.array_equal, found.state, text.snapshot.state))


def test_sampler_crosses_a_block_of_random_numbers() -> None:
    options = GenerateOptions(max_new_tokens=10, sampling=SamplingOptions(seed=4))
    logs = np.log(np.array([[1e-9, 1e-9, 0.3, 0.3, 0.4]], np.float32))
    whole = GeneratedText(LETTERS, "", options, sampled=UNIFORMS_BLOCK - 2)
    sampler = TokenSampler([whole])
    for _ in range(4):
        whole.append(int(sampler.sample(logs)[0]))
    for done in range(4):
        alone = GeneratedText(LETTERS, "", options, sampled=UNIFORMS_BLOCK - 2 + done)
        assert TokenSampler([alone]).sample(logs).tolist() == [whole.tokens[done]]
