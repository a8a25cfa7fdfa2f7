"""Comparison of training tokens with those that the bundle's tokenizer finds in a text."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from models.codecs import Codec
from models.codecs.words import WordsCodec, tokenize
from training.data.examples import SequenceExample, inputs_of, where

# Scripts without spaces between words: Thai, Lao, Burmese, Khmer, Japanese, and Chinese.
UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


@dataclass(slots=True)
class TokenDifferences:
    """Training tokens that a served text would not give: how many of how many, and the first one."""

    count: int = 0
    total: int = 0
    first: str = ""
    place: str = ""
    cut: tuple[str, ...] = ()  # what a text gives for the first one
    remedies: Counter[str] = field(default_factory=Counter)

    @property
    def remedy(self) -> str:
        """The remedy for most of them."""
        return next((remedy for remedy, _ in self.remedies.most_common(1)), "")

    @property
    def share(self) -> float:
        return self.count / max(self.total, 1)

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        cut = " ".join(map(repr, self.cut))
        return (
            f"{self.count:,} of {self.total:,} training tokens ({self.share:.1%}) are split differently in a text, the "
            f"first {self.first!r}{place} as {cut}: {self.remedy}"
        )


def compare_tokens(codec: Codec, examples: Iterable[SequenceExample]) -> TokenDifferences:
    """Compare the tokens of examples that are lists with those that `codec` cuts from the same tokens in a text.

    The text has blanks between tokens, except between tokens of scripts without spaces.
    """
    found = TokenDifferences()
    if not isinstance(codec, WordsCodec):
        return found
    parts_of: dict[str, tuple[str, ...]] = {}
    for example in examples:
        tokens = inputs_of(example)
        if isinstance(tokens, str):
            continue
        found.total += len(tokens)
        for step, token in enumerate(tokens):
            if (parts := parts_of.get(token)) is None:
                parts = parts_of[token] = tuple(tokenize(token, codec.spec.tokenizer)[0])
            run = _unspaced_run(tokens, step)
            if parts == (token,) and run == token:
                continue
            if not found.count:
                found.first, found.place = token, where(example, step)
                found.cut = (run,) if run != token else parts
            found.count += 1
            found.remedies[_remedy(token, unspaced=run != token)] += 1
    return found


def join_tokens(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """Return a text of the tokens, as `compare_tokens` compares them, and the start of each token in it."""
    text, starts = "", []
    for token in tokens:
        if text and not (UNSPACED.fullmatch(text[-1]) and UNSPACED.fullmatch(token)):
            text += " "
        starts.append(len(text))
        text += token
    return text, starts


def _unspaced_run(tokens: Sequence[str], step: int) -> str:
    """Return a token with its neighbors, if all of them are in scripts without spaces."""
    run = tokens[step]
    if not run.isascii() and UNSPACED.fullmatch(run):
        if step and UNSPACED.fullmatch(tokens[step - 1]):
            run = tokens[step - 1] + run
        if step + 1 < len(tokens) and UNSPACED.fullmatch(tokens[step + 1]):
            run += tokens[step + 1]
    return run


def _remedy(token: str, *, unspaced: bool) -> str:
    if unspaced and len(token) == 1:
        return "tag characters with --set codec.kind=characters"
    if unspaced or " " in token:
        return "send lists of tokens instead of texts"
    return "send lists of tokens, or texts with a blank between tokens and train with --set codec.tokenizer=whitespace"
