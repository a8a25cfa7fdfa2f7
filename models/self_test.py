"""The plain way from input to answer: one input at a time, no batching, no clock.

What the service must equal, bit for bit; also the self-test that a bundle has to pass before it is served.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models import state as states
from models.bundle import Bundle
from models.manifest import BundleError
from models.sampling import SamplingOptions
from models.state import State
from models.tasks import Classification, EmbeddingInput, Generation, Joint, StreamChunk, Tagging
from models.tasks.answers import Entity, EntitySpan, GenerationResult, as_json
from models.tasks.generate import GenerateOptions, TokenSampler

Part = Literal["tag", "classify"]


def answer(bundle: Bundle, raw: Any, parameters: dict[str, Any] | None = None, *, part: Part | None = None) -> Any:
    """Return the answer to one input. `parameters` are those of an HTTP request.

    A joint bundle gives a JointAnswer, or with `part` the answer of that task alone.
    """
    parameters = parameters or {}
    task = bundle.task
    if isinstance(task, Generation):
        if not isinstance(raw, str):
            raise TypeError(f"generation takes one string, not {type(raw).__name__}")
        return generate(bundle, raw, generate_options(parameters))
    item = task.encode(raw)
    row: Any = task.empty_row
    if item.length:
        (row,) = task.decode([item], bundle.model.run(task.collate([item])))
    tagging = {"aggregation": parameters.get("aggregation_strategy")}
    classifying = {"top_k": parameters.get("top_k")}
    if isinstance(task, Joint):
        if part is not None:
            return task.tags(item, row, **tagging) if part == "tag" else task.labels(item, row, **classifying)
        return task.answer(item, row, **tagging, **classifying)
    return task.answer(item, row, **(classifying if isinstance(task, Classification) else tagging))


def follow(bundle: Bundle, raw: Any, state: State | None = None) -> tuple[list[Entity] | list[EntitySpan], State]:
    """The entities of a piece of a stream, a label a step, and the state after it; None: the stream begins.

    Pieces of any cut give the answers of the whole. Raises BundleError for a bundle that has no state.
    """
    task = bundle.task
    if not isinstance(task, Tagging) or not task.state:
        raise BundleError(f"{bundle.manifest.name}: reads whole sequences and has no state to go on from")
    state = task.start() if state is None else state
    piece = StreamChunk(task.encode(raw), state)
    if not piece.length:
        return [], state
    (row,) = task.decode([piece], bundle.model.run(task.collate([piece])))
    return task.answer(piece.item, row, aggregation="none"), row.state


def embed(bundle: Bundle, raw: Any) -> NDArray[np.float32]:
    """The vector (W,) of one input. Raises BundleError for a bundle that gives none, and for an input without steps."""
    task = bundle.task
    if not isinstance(task, Classification | Joint) or not task.embeds:
        raise BundleError(f"{bundle.manifest.name}: its graph has no output 'embedding'")
    whole = EmbeddingInput(task.encode(raw))
    if not whole.length:
        raise BundleError(f"{bundle.manifest.name}: an input without steps has no vector")
    vector: NDArray[np.float32]
    (vector,) = task.decode([whole], bundle.model.run(task.collate([whole])))
    return vector


def generate_options(parameters: dict[str, Any]) -> GenerateOptions:
    """Return generation options from the parameters of an HTTP request."""
    return GenerateOptions(
        max_new_tokens=parameters.get("max_new_tokens", 100),
        sampling=SamplingOptions(
            temperature=parameters.get("temperature", 1.0),
            top_k=parameters.get("top_k", 0),
            top_p=parameters.get("top_p", 1.0),
            seed=parameters.get("seed", 0),
        ),
        stop=tuple(parameters.get("stop", ())),
        return_full_text=parameters.get("return_full_text", False),
        details=parameters.get("details", False),
    )


def generate(bundle: Bundle, prompt: str, asked: GenerateOptions) -> GenerationResult:
    """One text, step by step, alone."""
    task = bundle.task
    assert isinstance(task, Generation)
    text = task.start(prompt, asked)
    sampler = TokenSampler([text])
    tokens = task.encode(prompt).rows[:, None]  # (T, 1)
    if not len(tokens):
        return text.answer()
    run, state = bundle.model.run_list, states.zeros(task.state, 1)
    while True:
        lengths = np.array([len(tokens)], np.int32)
        log_probabilities, state = task.advance(run, tokens, lengths, state)
        (token,) = sampler.sample(log_probabilities)
        if text.append(int(token)):
            return text.answer()
        tokens = np.array([[token]], np.int32)


def run(bundle: Bundle) -> None:
    """Run the manifest's examples; raises BundleError that names the first one whose answer is not as recorded."""
    for number, example in enumerate(bundle.manifest.examples, 1):
        try:
            found = as_json(answer(bundle, example.inputs, example.parameters))
        except (
            Exception
        ) as error:  # labels that are too few, tensors of another type: whatever it is, it has to be named
            raise BundleError(
                f"{bundle.path}: example {number} ({_short(example.inputs, 60)}) cannot be answered with variant "
                f"{bundle.variant}: {type(error).__name__}: {error}"
            ) from error
        if not same(found, example.outputs, bundle.manifest.tolerance):
            raise BundleError(
                f"{bundle.path}: example {number} ({_short(example.inputs, 60)}) fails with variant {bundle.variant}: "
                f"expected {_short(example.outputs)}, got {_short(found)}"
            )


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Equal, but for floats, which may differ by `tolerance` (absolute)."""
    if isinstance(found, float) and isinstance(expected, int | float):
        return abs(found - expected) <= tolerance
    if isinstance(found, dict) and isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k], tolerance) for k in found)
    if isinstance(found, list) and isinstance(expected, list):
        return len(found) == len(expected) and all(same(a, b, tolerance) for a, b in zip(found, expected, strict=True))
    return bool(found == expected)


def _short(value: Any, characters: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= characters else text[:characters] + "…"
