"""The reference path from input to answer, one input at a time, and the self-test built on it.

The service must give the same answers, bit for bit.
"""

from typing import Any, Literal

import numpy as np

from models import state as states
from models.bundle import Bundle
from models.manifest import BundleError
from models.sampling import SamplingOptions
from models.tasks import (
    Classification,
    Filling,
    Forecasting,
    Generation,
    GenerationResult,
    Joint,
    Translation,
    as_json,
)
from models.tasks.generate import GenerateOptions, TokenSampler
from models.tasks.translation_rows import search

Part = Literal["tag", "classify"]


def run(bundle: Bundle) -> None:
    """Run the examples of the manifest. Raises BundleError for the first answer that differs from the recorded one."""
    for number, example in enumerate(bundle.manifest.examples, 1):
        where = f"{bundle.path}: example {number} ({_short(example.inputs, 60)})"
        try:
            found = as_json(answer(bundle, example.inputs, example.parameters))
        except Exception as error:  # any kind of mismatch between manifest and graph
            raise BundleError(
                f"{where} fails with variant {bundle.variant}: {type(error).__name__}: {error}"
            ) from error
        if not same(found, example.outputs, bundle.manifest.tolerance):
            raise BundleError(
                f"{where} gives a different answer with variant {bundle.variant}: "
                f"{_short(found)} instead of {_short(example.outputs)}"
            )


def answer(bundle: Bundle, raw: Any, parameters: dict[str, Any] | None = None, *, part: Part | None = None) -> Any:
    """Return the answer to one input. `parameters` are those of an HTTP request.

    A joint bundle gives a JointAnswer, or with `part` the answer of that task alone.
    """
    parameters = parameters or {}
    task = bundle.task
    if isinstance(task, Generation):
        if not isinstance(raw, str):
            raise TypeError(f"the input is a {type(raw).__name__}, but generation takes one string")
        return generate(bundle, raw, generate_options(parameters))
    if isinstance(task, Translation):
        text = task.start_for(task.encode_for(raw, parameters), parameters)
        search(bundle.translator, [text])
        return text.answer()
    item: Any = task.encode(raw)
    if isinstance(task, Filling):
        item = task.with_targets(item, task.rows_of(parameters.get("targets", ())))
    row: Any = task.empty_row
    if item.length:
        (row,) = task.decode([item], bundle.model.run(task.collate([item])))
    if isinstance(task, Forecasting):
        return task.answer(item, row, **parameters)
    tag_options = {"aggregation": parameters.get("aggregation_strategy")}
    classify_options = {"top_k": parameters.get("top_k")}
    if isinstance(task, Joint):
        if part is not None:
            return task.tags(item, row, **tag_options) if part == "tag" else task.labels(item, row, **classify_options)
        return task.answer(item, row, **tag_options, **classify_options)
    if isinstance(task, Classification | Filling):
        return task.answer(item, row, **classify_options)
    return task.answer(item, row, **tag_options, frame_rate=parameters.get("frame_rate"))


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


def generate(bundle: Bundle, prompt: str, options: GenerateOptions) -> GenerationResult:
    """Generate one text, one token at a time."""
    task = bundle.task
    assert isinstance(task, Generation)
    text = task.start(prompt, options)
    sampler = TokenSampler([text])
    tokens = task.encode(prompt).rows[:, None]  # (T, 1)
    if not len(tokens):
        return text.answer()
    state = states.zeros(task.state, 1)
    while True:
        lengths = np.array([len(tokens)], np.int32)
        log_probabilities, state = task.advance(bundle.model.run_list, tokens, lengths, state)
        (token,) = sampler.sample(log_probabilities)
        if text.append(int(token)):
            return text.answer()
        tokens = np.array([[token]], np.int32)


def same(found: Any, expected: Any, tolerance: float) -> bool:
    """Return whether two JSON values are equal. Floats may differ by `tolerance`, absolutely."""
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
