"""Files in the formats that users train on, made from the examples of tests.support.tiny."""

import json
from pathlib import Path

from tests.support import tiny

HEADER = {"csv": "text,label\n", "tsv": "text\tlabel\n", "jsonl": ""}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file byte for byte and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def table(kind: str, count: int = 60) -> str:
    rows = tiny.labeled(count)
    if kind == "jsonl":
        return "".join(json.dumps({"text": row.text, "label": row.label}) + "\n" for row in rows)
    between = "," if kind == "csv" else "\t"
    return HEADER[kind] + "".join(f"{row.text}{between}{row.label}\n" for row in rows)


def conll(count: int = 60) -> str:
    return "\n".join(
        "".join(f"{token}\t{tag}\n" for token, tag in zip(s.tokens, s.tags, strict=True)) for s in tiny.tagged(count)
    )


def sentences(kind: str, count: int = 60) -> str:
    """Return joint examples: tagged sentences with a label."""
    rows = tiny.joint(count)
    if kind == "jsonl":
        return "".join(json.dumps({"tokens": r.tokens, "tags": r.tags, "label": r.label}) + "\n" for r in rows)
    parts = [zip(row.tokens, row.tags, strict=True) for row in rows]
    blocks = ["".join(f"{token} {tag}\n" for token, tag in part) for part in parts]
    return "\n".join(f"# intent = {row.label}\n{block}" for row, block in zip(rows, blocks, strict=True))


def frames(kind: str, count: int = 60) -> str:
    rows = tiny.framed(count)
    if kind == "jsonl":
        return "".join(json.dumps({"frames": row.frames, "label": row.label}) + "\n" for row in rows)
    lines = [f"{i},{x},{y},{z},{row.label}\n" for i, row in enumerate(rows) for x, y, z in row.frames]
    return "id,x,y,z,label\n" + "".join(lines)


def tagged_frames(kind: str, count: int = 12) -> str:
    """Return series with a label for each frame: those of `frames`, five joined to one."""
    rows = tiny.framed(5 * count)
    parts = [
        [(frame, row.label) for row in rows[start : start + 5] for frame in row.frames]
        for start in range(0, len(rows), 5)
    ]
    if kind == "jsonl":
        lines = [{"frames": [frame for frame, _ in part], "labels": [label for _, label in part]} for part in parts]
        return "".join(json.dumps(line) + "\n" for line in lines)
    lines = [f"{i},{x},{y},{z},{label}\n" for i, part in enumerate(parts) for (x, y, z), label in part]
    return "id,x,y,z,label\n" + "".join(lines)


def plain_sentences(count: int = 60) -> str:
    """Return sentences whose last word follows from the word before it."""
    pairs = (("dogs", "bark"), ("cats", "meow"), ("birds", "sing"))
    return "".join(f"In house {n % 7} the {pair[0]} {pair[1]} .\n" for n in range(count) for pair in pairs)


def series(count: int = 240) -> str:
    """Return an hourly series with a season of a day."""
    rows = (f"2026-01-{1 + hour // 24:02} {hour % 24:02}:00,{hour % 24 + 0.1 * (hour % 5)}\n" for hour in range(count))
    return "time,load\n" + "".join(rows)


def pairs(count: int = 40) -> str:
    """Return sentences and their translation word by word into German, or backwards."""
    german = {
        "the": "der",
        "is": "ist",
        "and": "und",
        "film": "Film",
        "plot": "Plan",
        "cast": "Chor",
        "ending": "Schluss",
    }
    texts = [str(row.text) for row in tiny.labeled(count)]
    rows = (f"{text}\t{' '.join(german.get(word, word[::-1]) for word in text.split())}\n" for text in texts)
    return "source\ttarget\n" + "".join(rows)
