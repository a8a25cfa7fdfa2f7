"""Trained runs of a few epochs on files of every format."""

from pathlib import Path
from typing import Any

from tests.support import tiny
from tests.support.tiny_files import conll, frames, pairs, plain_sentences, sentences, series, table, tagged_frames
from training import recipe, run
from training.run import TrainingRun

FILES = {  # name -> recipe, content
    "mine.csv": ("classifier", table("csv")),
    "mine.tsv": ("classifier", table("tsv")),
    "mine.jsonl": ("classifier", table("jsonl")),
    "mine.conll": ("tagger", conll()),
    "mine.txt": ("language-model", tiny.TEXT),
    "joint.conll": ("snips", sentences("conll")),
    "joint.jsonl": ("snips", sentences("jsonl")),
    "mine.fa": ("splice", "".join(f">s {row.label}\n{row.text}\n" for row in tiny.dna(60))),
    "frames.jsonl": ("vowels", frames("jsonl")),
    "frames.csv": ("vowels", frames("csv")),
    "tagged-frames.csv": ("frame-tagger", tagged_frames("csv")),
    "tagged-frames.jsonl": ("frame-tagger", tagged_frames("jsonl")),
    "series.csv": ("forecaster", series()),
    "pairs.tsv": ("translator", pairs()),
    "sentences.txt": ("filler", plain_sentences()),
}
CHANGES: dict[str, dict[str, Any]] = {
    "vowels": {"codec.features": 3},
    "frame-tagger": {"codec.features": 3},
    "translator": {"pieces": 400, "architecture.decoder_hidden": 12, "architecture.attention": 8},
    "forecaster": {"data.freq": "h", "codec.longest": 48, "forecast.horizon": 24},
}  # the published recipe has the features of its data


def silent(*_: Any) -> None:
    """Report nothing."""


def fit(folder: Path, file: str, content: str | None = None, **changes: Any) -> TrainingRun:
    """Train on one of FILES, or on other content, into `folder`/run."""
    name, usual = FILES[file]
    (folder / file).write_text(usual if content is None else content, "utf-8")
    small = {"data.path": str(folder / file), "training.learning_rate": 0.01, **tiny.SMALL}
    changes = {**CHANGES.get(name, {}), **small, **changes}
    return run.fit(recipe.load(name, **changes), folder / "run", silent, command=f"fit {name}")
