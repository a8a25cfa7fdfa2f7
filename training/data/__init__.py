"""Data sets by name, one file each, and readers for users' own files (`training.data.custom_data`). No torch.

splits = load("ud-ewt")
splits = load({"name": "sst", "phrases": False})
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

from training.data import (
    japanese_vowels,
    names,
    nottingham_abc,
    snips,
    splice,
    sst,
    tinyshakespeare,
    trec,
    ud_ewt,
    wnut17,
)
from training.data.examples import (
    DataError,
    JointExample,
    LabeledExample,
    SeriesExample,
    Source,
    Splits,
    TaggedExample,
    where,
)
from training.data.fetch import PUBLISHED, known, locate, sha256_of, whereabouts

__all__ = [
    "DataError",
    "JointExample",
    "LabeledExample",
    "SeriesExample",
    "Source",
    "Splits",
    "TaggedExample",
    "catalogue",
    "load",
    "sha256_of",
    "where",
]

READERS: Mapping[str, Callable[..., tuple[Any, Any]]] = {
    "japanese-vowels": japanese_vowels.read,
    "names": names.read,
    "nottingham-abc": nottingham_abc.read,
    "snips": snips.read,
    "splice": splice.read,
    "sst": sst.read,
    "tinyshakespeare": tinyshakespeare.read,
    "trec": trec.read,
    "ud-ewt": ud_ewt.read,
    "wnut17": wnut17.read,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of `python -m training data`."""

    name: str
    task: str  # tag | classify | generate
    what: str
    where: str  # its folder, or "not fetched"
    licence: str


def load(name_or_spec: str | Mapping[str, Any], *, cache_dir: Path | None = None) -> Splits[Any]:
    """A published data set, fetched first if need be; a spec is its name and its reader's options.

    DataError for a name, an option or an option's value that there is not, and for files that cannot be used.
    """
    spec = {"name": name_or_spec} if isinstance(name_or_spec, str) else dict(name_or_spec)
    if not isinstance(name := spec.pop("name", None), str):
        raise DataError(f'a data set needs a name, e.g. name = "ud-ewt"; there are {", ".join(PUBLISHED)}')
    published = known(name)
    _check_options(name, spec)
    folder = locate(name, cache_dir=cache_dir)
    train, dev = READERS[name](folder, **spec)
    sums = {file.name: sha256_of(folder / file.name) for file in published.files}
    changed = [file.name for file in published.files if sums[file.name] != file.sha256_on_disk]
    note = f"differs from the published files: {', '.join(changed)}" if changed else ""
    source = Source(name=name, url=published.repository, licence=published.licence, files=sums, note=note)
    return Splits(train=train, dev=dev, source=source)


def _check_options(name: str, spec: Mapping[str, Any]) -> None:
    options = dict(list(signature(READERS[name]).parameters.items())[1:])
    for option, value in spec.items():
        if option not in options:
            raise DataError(f"{name} has no option {option!r}; it has {', '.join(options) or 'none'}")
        usual = options[option].default
        if type(value) is not type(usual):
            kind = "true or false" if isinstance(usual, bool) else "a string"
            raise DataError(f"{name}: {option} is {value!r}; it must be {kind}")


def catalogue(*, cache_dir: Path | None = None) -> list[Row]:
    """The known data sets and where each lies now."""
    return [
        Row(
            name=name,
            task=published.task,
            what=published.what,
            where=str(whereabouts(name, cache_dir=cache_dir) or "not fetched"),
            licence=published.licence,
        )
        for name, published in PUBLISHED.items()
    ]
