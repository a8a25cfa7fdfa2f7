"""Checklists: everyday inputs with their answers, which a bundle should get right. See training/checklists."""

from pathlib import Path

from training.data.conll import read_tagged
from training.data.examples import SequenceExample
from training.data.labeled import read_labeled

CHECKLISTS = Path(__file__).parent.parent / "checklists"


def read_checklist(name: str, task: str) -> list[SequenceExample]:
    """Return the checklist of the bundle `name`; [] if it has none."""
    if task in ("classify", "fill"):
        path = CHECKLISTS / f"{name}.tsv"
        return [*read_labeled(path)] if path.is_file() else []
    path = CHECKLISTS / f"{name}.conll"
    return [*read_tagged(path, label="intent" if task == "joint" else None)] if path.is_file() else []
