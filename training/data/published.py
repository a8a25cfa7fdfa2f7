"""Published data sets by name, with a reader for each.

    splits = load("ud-ewt")
    splits = load({"name": "sst", "phrases": False})

If a data set has two published files, they are the train and development data. Otherwise, a tenth is held out,
the same on every load. Test data is never read.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from models.codecs.words import tokenize
from models.files.tables import table_rows
from models.files.text_files import read_lines, read_text
from training.data.examples import (
    DataError,
    FileLocation,
    JointExample,
    LabeledExample,
    PairExample,
    SequenceExample,
    SeriesExample,
    Source,
    Splits,
    TaggedExample,
    TaggedSeries,
    TextExample,
    TimeSeries,
    label_of,
    text_of,
)
from training.data.fetch import PUBLISHED, locate, published_dataset, sha256_of
from training.data.frames import read_frames
from training.data.labeled import check_bases, read_labeled
from training.data.pairs import read_parallel
from training.data.sentiment_templates import make_sentences
from training.data.splitting import split, split_text
from training.data.tag_schemes import parse_iob, rename_kinds, to_iob2
from training.data.tagged import read_tagged
from training.data.time_series import read_series

CHECKLISTS = Path(__file__).parent.parent / "checklists"
TREC_TYPES = ("description", "entity", "abbreviation", "human", "location", "number")  # by their number in the file
SPLICE_CLASSES = ("EI", "IE", "N")
SPLICE_BASES = 60
ETT_MONTH = 30 * 24  # hours; the split of Zhou et al. 2021
ETT_TRAIN_MONTHS, ETT_DEV_MONTHS, ETT_TEST_MONTHS = 12, 4, 4
LIBRAS_NUMBERS = 90  # 45 frames of x and y
GESTURE_TRAIN, GESTURE_DEV = ("a1", "a2", "b1"), ("a3", "b3")  # videos of the persons A and B; C is held back
GESTURE_PHASES = {"Preparação": "Preparation"}  # one label of b1 is in Portuguese
GESTURE_DELAY = 4  # velocities of a frame need those before it, so their file begins later
JOINTS = ("lh", "rh", "h", "lw", "rw")  # left and right hand, head, left and right wrist
POSITION_DECIMALS = 6
SST_BINARY = {0: "negative", 1: "negative", 3: "positive", 4: "positive"}
SST_FINE = {label: str(label) for label in range(5)}
EVERYDAY_DRAWS = 120_000  # of sentences from templates
TREE_SYMBOL = re.compile(r"\(|\)|[^\s()]+")
UNESCAPED = {  # what people type for the treebank's escapes
    "-LRB-": "(",
    "-RRB-": ")",
    "-LSB-": "[",
    "-RSB-": "]",
    "-LCB-": "{",
    "-RCB-": "}",
    "``": '"',
    "''": '"',
    "`": "'",
}

Example = TypeVar("Example", LabeledExample, TaggedExample, SeriesExample)
Phrase = tuple[int, tuple[str, ...]]  # label 0 to 4, words


def load(name_or_spec: str | Mapping[str, Any], *, cache_dir: Path | None = None) -> Splits[Any]:
    """Load a data set by its name, or by its name and its reader's options. Fetches it if necessary.

    Raises DataError for an unknown name or option, a wrong value, or unusable files.
    """
    spec = {"name": name_or_spec} if isinstance(name_or_spec, str) else dict(name_or_spec)
    if not isinstance(name := spec.pop("name", None), str):
        raise DataError(f'a data set needs a name, e.g. name = "ud-ewt"; choose one of {", ".join(PUBLISHED)}')
    published = published_dataset(name)
    _check_options(name, spec)
    folder = locate(name, cache_dir=cache_dir)
    train, dev = READERS[name](folder, **spec)
    sums = {file.name: sha256_of(folder / file.name) for file in published.files}
    changed = [file.name for file in published.files if sums[file.name] != file.sha256_on_disk]
    note = f"differs from the published files: {', '.join(changed)}" if changed else ""
    source = Source(name=name, url=published.repository, licence=published.license, files=sums, note=note)
    return Splits(train=train, dev=dev, source=source)


def _check_options(name: str, spec: Mapping[str, Any]) -> None:
    options = dict(list(signature(READERS[name]).parameters.items())[1:])
    for option, value in spec.items():
        if option not in options:
            raise DataError(f"{name} has no option {option!r}; its options: {', '.join(options) or 'none'}")
        default = options[option].default
        if type(value) is not type(default):
            kind = "true or false" if isinstance(default, bool) else "a string"
            raise DataError(f"{name}: {option} is {value!r}; give {kind}")


def read_ud_ewt(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """Read 12,544 training sentences (204,577 words) and 2,001 of development; 17 tags."""
    return read_tagged(folder / "train.conllu"), read_tagged(folder / "dev.conllu")


def read_wnut17(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """Read 3,394 training sentences and 1,009 of development; 6 entity types, so 13 tags."""
    return read_tagged(folder / "train.conll"), read_tagged(folder / "dev.conll")


def read_uner_ewt(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """Read 12,543 training sentences and 2,001 of development; PER, LOC and ORG, so 7 tags."""
    return _uner_sentences(folder / "uner-ewt-train.iob2"), _uner_sentences(folder / "uner-ewt-dev.iob2")


def _uner_sentences(path: Path) -> list[TaggedExample]:
    """Read rows of a number, a token, a tag, and in some rows annotators. The training file also has OTH and O."""
    return rename_kinds(_tagged_rows(path, token_at=1), {kind: kind for kind in ("PER", "LOC", "ORG")})


def read_btc(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """Read 8,385 training and 932 development tweets; PER, LOC and ORG, so 7 tags.

    The published tags make two mentions of "@" and the account after it. Both become O, as in other data sets.
    """
    tweets = [tweet for path in sorted(folder.glob("btc-?.conll")) for tweet in _tagged_rows(path, token_at=0)]
    return _split_distinct([_without_accounts(tweet) for tweet in tweets])


def _without_accounts(tweet: TaggedExample) -> TaggedExample:
    pairs = pairwise(("", *tweet.tokens))
    tags = ["O" if "@" in pair else tag for pair, tag in zip(pairs, tweet.tags, strict=True)]
    return replace(tweet, tags=to_iob2(map(parse_iob, tags)))


def _tagged_rows(path: Path, *, token_at: int) -> list[TaggedExample]:
    """Read rows between tabs, with the tag after the token. Rows without a token are left out."""
    sentences: list[TaggedExample] = []
    rows: list[tuple[int, str, str]] = []  # line number, token, tag
    for number, line in enumerate([*read_lines(path), ""], start=1):
        cells = line.split("\t")
        if len(cells) > token_at + 1:
            token, tag = cells[token_at : token_at + 2]
            rows += [(number, token, tag)] if token.strip() else []
        elif line.strip() and not line.startswith("# "):
            raise DataError(f"{path}, line {number}: {len(cells)} columns; fetch the file again")
        elif rows and not line.strip():
            lines, tokens, tags = zip(*rows, strict=True)
            sentences.append(TaggedExample(tokens=tokens, tags=tags, place=FileLocation(str(path), lines[0], lines)))
            rows = []
    return sentences


def read_wikigold(folder: Path) -> tuple[list[TaggedExample], list[TaggedExample]]:
    """Read 1,518 training and 169 development sentences; PER, LOC, ORG and MISC, so 9 tags.

    The published tags are IOB1: B-x only stands between two mentions of one kind.
    """
    sentences = read_tagged(folder / "wikigold.conll")
    return _split_distinct([replace(each, tags=to_iob2(map(parse_iob, each.tags))) for each in sentences])


def read_nottingham(folder: Path) -> tuple[str, str]:
    """Read 828 training tunes and 103 of development: 356,894 and 43,165 characters."""
    return read_text(folder / "train.abc"), read_text(folder / "dev.abc")


def read_tinyshakespeare(folder: Path) -> tuple[str, str]:
    """Read 903,469 characters of training text and the 100,385 after them; 65 different characters."""
    return split_text(read_text(folder / "train.txt"))


def read_japanese_vowels(folder: Path) -> tuple[list[SeriesExample], list[SeriesExample]]:
    """Read 243 training and 27 development utterances, 27 and 3 of each speaker."""
    utterances = read_frames(folder / "JapaneseVowels_TRAIN.ts")
    return split(utterances, seed=0, labels=[each.label for each in utterances])


def read_libras(folder: Path) -> tuple[list[SeriesExample], list[SeriesExample]]:
    """Read 208 training and 23 development movements of a hand, 45 frames of x and y; 15 classes."""
    movements = []
    for place, line in list(_lines(folder / "train.data"))[1:]:  # after a line about the format
        *numbers, label = line.strip().split(",")
        if len(numbers) != LIBRAS_NUMBERS:
            raise DataError(f"{place}: {len(numbers)} numbers, not {LIBRAS_NUMBERS}; fetch the file again")
        values = iter(map(float, numbers))
        movements.append(SeriesExample(frames=tuple(zip(values, values, strict=True)), label=label, place=place))
    return _split_distinct(movements)


def read_gesture_phases(folder: Path) -> tuple[list[TaggedSeries], list[TaggedSeries]]:
    """Read 3 training videos (4,072 frames) and 2 of development (3,250), of 2 persons; 5 phases.

    A frame has 47 numbers: the positions of hands, head and wrists relative to the spine, and the published velocities
    and accelerations, which only depend on the frames before.
    """
    train, dev = ([_gesture_video(folder, name) for name in names] for names in (GESTURE_TRAIN, GESTURE_DEV))
    return train, dev


def _gesture_video(folder: Path, name: str) -> TaggedSeries:
    path = folder / f"{name}_raw.csv"
    (_, header), *rows = table_rows(path, read_lines(path), ("phase",))
    processed = folder / f"{name}_va3.csv"
    velocities = [cells[:-1] for _, cells in list(table_rows(processed, read_lines(processed), ("Phase",)))[1:]]
    rows = rows[GESTURE_DELAY:]
    if len(velocities) != len(rows):
        raise DataError(f"{processed}: {len(velocities)} frames, but {path} has {len(rows)}; fetch both again")
    column = {name: number for number, name in enumerate(header)}
    pairs = [(column[joint + axis], column["s" + axis]) for joint in JOINTS for axis in "xyz"]
    frames = tuple(
        (
            *(round(float(cells[joint]) - float(cells[spine]), POSITION_DECIMALS) for joint, spine in pairs),
            *map(float, moving),
        )
        for (_, cells), moving in zip(rows, velocities, strict=True)
    )
    phases = (cells[column["phase"]].strip() for _, cells in rows)
    lines = tuple(line for line, _ in rows)
    tags = tuple(GESTURE_PHASES.get(phase, phase) for phase in phases)
    return TaggedSeries(frames=frames, tags=tags, place=FileLocation(str(path), lines[0], lines))


def read_captions(folder: Path) -> tuple[list[TextExample], list[TextExample]]:
    """Read 145,000 training captions, five of each photo in a row, and one of each of 1,014 other photos."""
    files = [list(_lines(path)) for path in sorted(folder.glob("captions.train.?.en"))]
    train = [_caption(*row) for rows in zip(*files, strict=True) for row in rows]
    return train, [_caption(*row) for row in _lines(folder / "val.en")]


def _caption(place: FileLocation, line: str) -> TextExample:
    return TextExample(text=line.strip(), place=place)


def read_names(folder: Path, *, native: bool = False) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """Read 16,211 training and 1,801 development surnames of 18 nationalities, one file each.

    `native` gives surnames of several lists to fewer of them in the training data. The English list has names from
    elsewhere, such as Garcia and Murphy: it loses those of other lists. The Scottish list is of common surnames in
    Scotland, such as Smith, so it loses those of the English list instead. 15,949 names remain.
    """
    lines = ((path.stem, place, line) for path in sorted(folder.glob("*.txt")) for place, line in _lines(path))
    train, dev = _split_distinct(
        [LabeledExample(text=line.strip(), label=label, place=place) for label, place, line in lines]
    )
    if native:
        named = [(e.label, without_accents(text_of(e))) for e in train]
        english = {name for label, name in named if label == "English"}
        elsewhere = {name for label, name in named if label not in {"English", "Scottish"}}
        train = [e for e in train if e.text not in {"English": elsewhere, "Scottish": english}.get(e.label, ())]
    return train, dev


def without_accents(text: str) -> str:
    """Return a text without combining marks: "García" as "Garcia". Letters such as ß and ł keep their form."""
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(each for each in decomposed if not unicodedata.combining(each)))


def read_trec(folder: Path) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """Read 4,843 training and 538 development questions, tokenized as published."""
    questions = []
    for place, line in _lines(folder / "train.txt", encoding="latin-1"):
        number, *words = line.split()
        if words:
            if number not in {"0", "1", "2", "3", "4", "5"}:
                raise DataError(f"{place}: {number!r} is not a type from 0 to 5; fetch the file again")
            questions.append(LabeledExample(text=tuple(words), label=TREC_TYPES[int(number)], place=place))
    return _split_distinct(questions)


def read_splice(folder: Path) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """Read 2,452 training and 272 development DNA sequences of 60 bases, 3 classes."""
    path = folder / "train.txt"
    sequences = []
    for line_number, line in enumerate(read_lines(path), start=1):
        label, _, bases = (cell.strip() for cell in line.split(",")) if line.count(",") == 2 else ("", "", "")
        place = FileLocation(str(path), line_number)
        if label not in SPLICE_CLASSES or len(bases) != SPLICE_BASES:
            classes = ", ".join(SPLICE_CLASSES)
            raise DataError(f"{place}: needs a class of {classes}, a name and {SPLICE_BASES} bases; fetch it again")
        check_bases(str(place), bases)
        sequences.append(LabeledExample(text=bases, label=label, place=place))
    return _split_distinct(sequences)


def read_snips(folder: Path, *, target: str = "slots") -> tuple[Sequence[Any], Sequence[Any]]:
    """Read 13,084 training commands and 700 of development, with their "slots", their "intent" or both ("joint")."""
    if target not in {"slots", "intent", "joint"}:
        raise DataError(f'snips: target is {target!r}; give "slots", "intent" or "joint"')
    return _snips_commands(folder / "train", target), _snips_commands(folder / "valid", target)


def _snips_commands(folder: Path, target: str) -> Sequence[Any]:
    names = ("seq.in", "seq.out", "label")
    columns = [[(place, tuple(line.split())) for place, line in _lines(folder / name)] for name in names]
    if len({len(rows) for rows in columns}) > 1:
        counts = ", ".join(f"{len(rows)} rows in {name}" for name, rows in zip(names, columns, strict=True))
        raise DataError(f"{folder}: {counts}; fetch it again")
    joint = []
    for (place, words), (_, tags), (_, intent) in zip(*columns, strict=True):
        if len(words) != len(tags):
            raise DataError(f"{place}: {len(words)} words but {len(tags)} tags; fetch it again")
        joint.append(JointExample(tokens=words, tags=tags, label=intent[0], place=place))
    if target == "intent":
        return [LabeledExample(text=each.tokens, label=each.label, place=each.place) for each in joint]
    if target == "slots":
        return [TaggedExample(tokens=each.tokens, tags=each.tags, place=each.place) for each in joint]
    return joint


def read_sst(
    folder: Path, *, phrases: bool = True, fine: bool = False, everyday: bool = False
) -> tuple[list[LabeledExample], list[LabeledExample]]:
    """Read 77,616 training phrases, or the 6,911 that are sentences (`phrases=False`), and 872 dev sentences.

    Every phrase of a tree has a label from 0 (bad) to 4 (good). As in SST-2, label 2 is dropped, 0 and 1 are
    "negative", 3 and 4 "positive". `fine` keeps five labels, "0" to "4": 159,269 phrases or 8,534 sentences, and 1,101
    dev sentences. A phrase with the same label in several trees is one training example. `everyday` adds 35,836
    training sentences made from templates, none of them in the checklist of sentiment-en.
    """
    label_of = SST_FINE if fine else SST_BINARY
    parts: dict[str, list[LabeledExample]] = {"train": [], "dev": []}
    for part, examples in parts.items():
        for place, line in _lines(folder / f"{part}.txt"):
            try:
                tree = parse_tree(line)
            except ValueError as error:
                raise DataError(f"{place}: not a tree: {error}; fetch the file again") from error
            chosen = tree if part == "train" and phrases else tree[-1:]
            labeled = ((label_of[label], words) for label, words in chosen if label in label_of)
            examples += [LabeledExample(text=words, label=label, place=place) for label, words in labeled]
    if everyday:
        checked = {_lowercase_tokens(text_of(example)) for example in read_checklist("sentiment-en", "classify")}
        sentences = make_sentences(EVERYDAY_DRAWS, seed=0, without=checked)
        parts["train"] += [LabeledExample(text=words, label=label_of[label]) for label, words in sentences]
    return list(dict.fromkeys(parts["train"])), parts["dev"]


def read_checklist(name: str, task: str) -> list[SequenceExample]:
    """Return everyday inputs with their answers, which the bundle `name` should get right; [] if it has none."""
    if task in ("classify", "fill"):
        path = CHECKLISTS / f"{name}.tsv"
        return [*read_labeled(path)] if path.is_file() else []
    path = CHECKLISTS / f"{name}.conll"
    return [*read_tagged(path, label="intent" if task == "joint" else None)] if path.is_file() else []


def _lowercase_tokens(text: str) -> tuple[str, ...]:
    return tuple(tokenize(text.lower(), "words")[0])


def parse_tree(tree: str) -> list[Phrase]:
    """Return every phrase of one bracketed tree, smaller before larger, the whole sentence last.

    The treebank escapes brackets, quotes and slashes; the words are returned as people type them.
    """
    phrases: list[Phrase] = []
    open_phrases: list[tuple[int, list[str]]] = []  # label, words so far
    symbols = iter(TREE_SYMBOL.findall(tree))
    for symbol in symbols:
        if symbol == "(":
            label = next(symbols, "")
            if label not in {"0", "1", "2", "3", "4"}:
                raise ValueError(f"label {label!r} is not one of 0 to 4")
            open_phrases.append((int(label), []))
        elif not open_phrases:
            raise ValueError(f"{symbol!r} is outside the brackets")
        elif symbol == ")":
            closed, words = open_phrases.pop()
            phrases.append((closed, tuple(words)))
            if open_phrases:
                open_phrases[-1][1].extend(words)
        else:
            open_phrases[-1][1].append(UNESCAPED.get(symbol, symbol.replace("\\/", "/").replace("\\*", "*")))
    if open_phrases or not phrases:
        raise ValueError(f"{len(open_phrases)} brackets are not closed")
    return phrases


def _lines(path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[FileLocation, str]]:
    """Yield every line that is not blank with its location."""
    for line_number, line in enumerate(read_lines(path, encoding=encoding), start=1):
        if line.strip():
            yield FileLocation(str(path), line_number), line


def _split_distinct(examples: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Hold out a tenth after dropping repeated examples, which could otherwise be on both sides of the split."""
    distinct = list(dict.fromkeys(examples))
    labels = [label for each in distinct if (label := label_of(each)) is not None]
    return split(distinct, seed=0, labels=labels or None)


def read_ett(folder: Path) -> tuple[list[TimeSeries], list[TimeSeries]]:
    """Read 7 series of 12 months to train on, and 4 months of development, hour by hour; months have 30 days."""
    months = [
        one.until((ETT_TRAIN_MONTHS + ETT_DEV_MONTHS) * ETT_MONTH)
        for one in read_series(folder / "ETTh1.csv", time="date", frequency="h")
    ]
    train = [one.until(ETT_TRAIN_MONTHS * ETT_MONTH) for one in months]
    return train, [one.starting_at(ETT_TRAIN_MONTHS * ETT_MONTH) for one in months]


def read_ett_test(folder: Path) -> list[TimeSeries]:
    """Read the 4 months after those of `read_ett`, which its literature scores, with all months before them."""
    end, months = ETT_TRAIN_MONTHS + ETT_DEV_MONTHS, ETT_TRAIN_MONTHS + ETT_DEV_MONTHS + ETT_TEST_MONTHS
    series = read_series(folder / "ETTh1.csv", time="date", frequency="h")
    return [one.until(months * ETT_MONTH).starting_at(end * ETT_MONTH) for one in series]


def load_test(name: str) -> list[TimeSeries] | None:
    """Return the test series of a data set that the literature scores by its own split, or None."""
    return read_ett_test(locate(name)) if name == "ett" else None


def read_multi30k(folder: Path, source: str = "en", target: str = "de") -> tuple[list[PairExample], list[PairExample]]:
    """Read 29,000 training pairs and 1,014 of development: captions of photos in cs, de, en and fr."""
    train, dev = (read_parallel(folder / f"{part}.{source}", folder / f"{part}.{target}") for part in ("train", "val"))
    return train, dev


READERS: Mapping[str, Callable[..., tuple[Any, Any]]] = {
    "btc": read_btc,
    "captions": read_captions,
    "ett": read_ett,
    "gesture-phases": read_gesture_phases,
    "japanese-vowels": read_japanese_vowels,
    "libras": read_libras,
    "multi30k": read_multi30k,
    "names": read_names,
    "nottingham-abc": read_nottingham,
    "snips": read_snips,
    "splice": read_splice,
    "sst": read_sst,
    "tinyshakespeare": read_tinyshakespeare,
    "trec": read_trec,
    "ud-ewt": read_ud_ewt,
    "uner-ewt": read_uner_ewt,
    "wikigold": read_wikigold,
    "wnut17": read_wnut17,
}
