"""The data of a recipe: a published data set, or the user's own files split into train and dev."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from models.files.tables import is_json
from models.files.text_files import read_text
from models.manifest import CodecSpec, WordsSpec
from training.data import published, scenes
from training.data.examples import (
    DataError,
    ForecastWindow,
    JointExample,
    PairExample,
    SeriesExample,
    Source,
    Splits,
    TaggedExample,
    TaggedSeries,
    TextExample,
    TimeSeries,
    merge_labels,
    tags_of,
    text_of,
)
from training.data.fetch import sha256_of
from training.data.frames import read_frames, read_tagged_frames
from training.data.labeled import read_bases, read_labeled, read_texts
from training.data.pairs import read_captions, read_pairs, read_parallel
from training.data.splitting import split, split_text
from training.data.tag_schemes import convert, rename_kinds
from training.data.tagged import read_tagged, read_tagged_json, read_token_table
from training.data.time_series import fit_sizes, hold_out_ends, read_series, windows
from training.recipe import AdditionalData, DataOptions, Recipe

LONGEST_RUN, FEWEST_RUNS = 20, 10  # of consecutive examples that are held out to choose the epoch
TEST_SHARE = 0.5  # of each series in a test file: the end, which is scored
HELD_OUT_SEED = 1  # not the seed of the weights: runs with several seeds are scored on the same examples


def load_splits(recipe: Recipe) -> Splits[Any]:
    """Load a recipe's data with the labels of the data. See `merge_dev_labels` for a recipe that merges labels."""
    options = recipe.data
    if options.path is not None:
        splits = _own_splits(recipe, options.path)
    elif options.name == scenes.NAME:
        splits = scenes.load()
    elif options.name is not None:
        splits = published.load({"name": options.name, **options.options})
    else:
        raise DataError("the recipe has no data; give --data FILE, or set name or path under [data]")
    return _with_more(_with_choice(_with_windows(recipe, splits), options.choice_share), options.more)


def _own_splits(recipe: Recipe, path: Path) -> Splits[Any]:
    options, notes = recipe.data, ()
    train = read_file(path, recipe.task, recipe.codec, options, options.parallel)
    dev = None
    if options.dev is not None:
        dev = read_file(options.dev, recipe.task, recipe.codec, options, options.dev_parallel)
    if _has_sentences(recipe):
        (train, dev), notes = convert([train, dev or []], options.tag_scheme)
    if options.dev is None:
        try:
            if recipe.forecast is not None:
                train, dev = hold_out_ends(train, dev_share=options.dev_share, horizon=recipe.forecast.horizon)
            else:
                train, dev = hold_out(train, dev_share=options.dev_share, seed=HELD_OUT_SEED)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    own = {"": path, "parallel/": options.parallel, "dev/": options.dev, "dev/parallel/": options.dev_parallel}
    files = {f"{folder}{file.name}": sha256_of(file) for folder, file in own.items() if file is not None}
    source = Source(name=path.name, url="", licence="the user's own", files=files)
    return Splits(train=train, dev=dev, source=source, notes=notes)


def _has_sentences(recipe: Recipe) -> bool:
    """Return whether the examples are tagged sentences, whose tags may need another scheme."""
    return recipe.task in ("tag", "joint") and recipe.codec.kind != "frames"


def scored_series(recipe: Recipe) -> tuple[Sequence[TimeSeries], Sequence[TimeSeries], str]:
    """Return the series that a forecaster is trained on, those that it is scored on, and what these are."""
    if recipe.data.path is None:
        name = recipe.data.name or ""
        splits = published.load({"name": name, **recipe.data.options})
        test = published.load_test(name)
        return splits.train, test or splits.dev, "test" if test else "development"
    options, horizon = recipe.data, recipe.forecast.horizon
    series = read_file(recipe.data.path, recipe.task, recipe.codec, options)
    if options.dev is not None:
        return series, read_file(options.dev, recipe.task, recipe.codec, options), "development"
    return (*hold_out_ends(series, dev_share=options.dev_share, horizon=horizon), "development")


def _with_windows(recipe: Recipe, splits: Splits[Any]) -> Splits[Any]:
    """Return the splits with windows of the development series, for forecasts."""
    if recipe.forecast is None:
        return splits
    return replace(splits, dev=windows(splits.train, splits.dev, recipe.codec, recipe.forecast))


def _with_choice(splits: Splits[Any], share: float) -> Splits[Any]:
    """Hold runs of consecutive training examples out to choose the epoch, because neighbors share words.

    Of series with a label for each frame, the last frames are held out.
    """
    if not share:
        return splits
    if isinstance(splits.train[0], TaggedSeries):
        train, choice = _hold_out_tails(splits.train, share)
        return replace(splits, train=train, choice=choice)
    every = round(1 / share)
    if len(splits.train) < every:
        raise DataError(f"{len(splits.train)} examples are too few for data.choice_share={share:g}; give more data")
    run = max(1, min(LONGEST_RUN, len(splits.train) // (FEWEST_RUNS * every)))
    parts = [(i // run % every == every - 1, example) for i, example in enumerate(splits.train)]
    train, choice = ([example for chosen, example in parts if chosen is wanted] for wanted in (False, True))
    return replace(splits, train=train, choice=choice)


def _with_more(splits: Splits[Any], more: Sequence[AdditionalData]) -> Splits[Any]:
    """Add the training examples of further data sets, and keep their development examples apart.

    Without kinds of spans, only their texts count.
    """
    for each in more:
        other: Splits[Any] = published.load({"name": each.name, **each.options})
        parts = (other.train, other.dev)
        train, dev = [rename_kinds(part, each.kinds) if each.kinds else _texts(part) for part in parts]
        splits = replace(
            splits,
            train=[*splits.train, *train * each.copies],
            elsewhere={**splits.elsewhere, each.name: dev},
            source=_joined(splits.source, other.source, other.source.name),
        )
    return splits


def _texts(examples: Sequence[Any]) -> list[TextExample]:
    return [TextExample(text=text_of(example), place=example.place) for example in examples]


def load_test_file(recipe: Recipe) -> tuple[Any, tuple[str, ...]]:
    """Return all examples of the recipe's file, and notes. Nothing is held out.

    The labels of the file can be those of the bundle, or those that the recipe merges.
    """
    options, notes = recipe.data, ()
    assert options.path is not None
    rows = read_file(options.path, recipe.task, recipe.codec, options, options.parallel)
    if _has_sentences(recipe):
        (rows,), notes = convert([rows], options.tag_scheme)
    unmerged = {part for parts in recipe.merge.values() for part in parts} - recipe.merge.keys()
    if any(row.label in unmerged for row in rows if recipe.merge):
        rows = merge_labels(rows, recipe.merge)
    return rows, notes


def load_test_series(recipe: Recipe) -> tuple[Sequence[TimeSeries], list[ForecastWindow]]:
    """Return the first half of each series of the recipe's file, for baselines, and windows of the second half.

    Raises DataError, also for series of less than two segments.
    """
    path, codec = recipe.data.path, recipe.codec
    assert path is not None
    series = read_file(path, recipe.task, codec, recipe.data)
    longest = max(len(one.values) for one in series)
    if longest < 2 * codec.segment:
        needed = f"{2 * codec.segment} are needed, two segments of {codec.segment}"
        raise DataError(f"{path}: the longest series has {longest} values, but {needed}; give longer series")
    train, scored = hold_out_ends(series, dev_share=TEST_SHARE, horizon=codec.segment)
    try:
        return train, windows(train, scored, codec, recipe.forecast)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def read_file(path: Path, task: str, codec: CodecSpec, options: DataOptions, parallel: Path | None = None) -> Any:
    """Read a text for "generate", else the examples of a file: for "fill" its lines.

    tag: CoNLL, JSON or a table of tokens; JSON or a table for "frames". joint: CoNLL or JSON with labels. classify:
    tables, JSON or fastText; FASTA too for "dna"; JSON, tables or .ts for "frames". forecast: CSV or Parquet.
    translate: tables, JSON, or texts with their translations in the file `parallel`. caption: vectors, with their
    captions in `parallel`.
    """
    label, encoding = options.label, options.encoding
    if task == "forecast":
        columns = {"time": options.time, "target": options.target, "series": options.series}
        return read_series(path, **columns, frequency=options.freq, encoding=encoding)
    if task in ("translate", "caption"):
        return _read_pairs(path, task, options, parallel)
    if task == "generate":
        return read_text(path, encoding=encoding)
    if task == "fill":
        return read_texts(path, encoding=encoding)
    if codec.kind == "frames":
        keys = {"series": options.series, "encoding": encoding}
        keys["frames"] = "frames" if options.text == DataOptions().text else options.text
        if task == "tag":
            labels = "labels" if is_json(path) and label == DataOptions().label else label
            return read_tagged_frames(path, labels=labels, **keys)
        return read_frames(path, label=label, **keys)
    if task in ("tag", "joint"):
        sentence_label = label if task == "joint" else None
        if is_json(path):
            tokenizer = codec.tokenizer if isinstance(codec, WordsSpec) else "characters"
            keys = {"label": sentence_label, "tokens": options.tokens, "tags": options.tags, "tokenizer": tokenizer}
            return read_tagged_json(path, encoding=encoding, **keys)
        columns = {"token_column": options.token_column, "tag_column": options.tag_column, "encoding": encoding}
        table = read_token_table(path, **columns) if task == "tag" else None
        return table or read_tagged(path, label=sentence_label, **columns)
    reader = read_bases if codec.kind == "dna" else read_labeled
    return reader(path, text=options.text, label=label, encoding=encoding)


def _read_pairs(path: Path, task: str, options: DataOptions, parallel: Path | None) -> list[PairExample]:
    if task == "caption":
        if parallel is None:
            raise DataError(f"{path}: has no captions; give their file with --captions (in a recipe: data.parallel)")
        return read_captions(path, parallel, text=options.target or "caption")
    if parallel is not None:
        return read_parallel(path, parallel, encoding=options.encoding)
    return read_pairs(path, source=options.source, target=options.target or "target", encoding=options.encoding)


def hold_out(rows: Any, *, dev_share: float, seed: int) -> tuple[Any, Any]:
    """Return train and dev: the end of a text, or random examples, stratified if all examples have one label.

    Of few series with a label for each frame, the last frames of each are held out.

    Raises DataError, without the name of the file, if there is too little for either.
    """
    if isinstance(rows, str):
        return split_text(rows, dev_share=dev_share)
    if len(rows) == 1 and isinstance(rows[0], TaggedExample | JointExample):
        raise DataError(
            f"only one sentence, of {len(rows[0].tokens)} tokens; put a blank line after each sentence, or give more"
        )
    if isinstance(rows[0], TaggedSeries) and round(dev_share * len(rows)) < 1:
        return _hold_out_tails(rows, dev_share)
    unlabeled = any(isinstance(row, TaggedExample | TaggedSeries | PairExample | TextExample) for row in rows)
    labels = None if unlabeled else [row.label for row in rows]
    return split(rows, dev_share=dev_share, seed=seed, labels=labels)


def _hold_out_tails(rows: Sequence[TaggedSeries], share: float) -> tuple[list[TaggedSeries], list[TaggedSeries]]:
    """Return the frames of each series without the last ones, and those: `share` of its frames."""
    cuts = [max(1, len(row.frames) - round(share * len(row.frames))) for row in rows]
    pairs = list(zip(rows, cuts, strict=True))
    train, tails = [row.part(0, cut) for row, cut in pairs], [row.part(cut) for row, cut in pairs if row.frames[cut:]]
    if not tails:
        raise DataError(f"{len(rows)} series of few frames; give more frames, or development data (--dev FILE)")
    return train, tails


def fit_to_data(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of a recipe that are `given`, and the other fields that depend on the user's data.

    `codec.features`, or `source.features` of a captioner, is the count of numbers in the first frame. For forecasts,
    see `time_series.fit_sizes`.
    """
    if recipe.task == "caption" and recipe.data.path is not None and "source.features" not in given:
        pairs = read_file(recipe.data.path, recipe.task, recipe.codec, recipe.data, recipe.data.parallel)
        return {**given, "source.features": len(pairs[0].source[0])}
    if recipe.data.path is None or (recipe.forecast is None and recipe.codec.kind != "frames"):
        return dict(given)
    if "codec.features" in given:
        return dict(given)
    rows = read_file(recipe.data.path, recipe.task, recipe.codec, recipe.data)
    if recipe.forecast is not None:
        return fit_sizes(rows, segment=recipe.codec.segment, given=given)
    first: SeriesExample | TaggedSeries = rows[0]
    return {**given, "codec.features": len(first.frames[0])}


def merge_dev_labels(recipe: Recipe, splits: Splits[Any]) -> Splits[Any]:
    """Return the splits with the development data under the labels that the bundle answers with."""
    return replace(splits, dev=merge_labels(splits.dev, recipe.merge)) if recipe.merge else splits


def load_auxiliary(recipe: Recipe) -> Splits[Any] | None:
    """Load the data of the recipe's auxiliary task, if it has one."""
    if recipe.auxiliary is None:
        return None
    splits: Splits[Any] = published.load({"name": recipe.auxiliary.name, **recipe.auxiliary.options})
    if not tags_of(splits.train[0]):
        raise DataError(f"{recipe.auxiliary.name} has no tags, which auxiliary data needs; choose another data set")
    return splits


def combine_sources(splits: Splits[Any], auxiliary: Splits[Any] | None) -> Source:
    """Return the source of the data, including that of the auxiliary task."""
    if auxiliary is None:
        return splits.source
    return _joined(splits.source, auxiliary.source, auxiliary.source.name)


def add_donor_sources(recipe: Recipe, source: Source) -> Source:
    """Add the data sets that augmentation borrows mentions from."""
    for donor in recipe.variation.lenders if recipe.variation else ():
        if not donor.name:
            continue
        other = published.load({"name": donor.name, **donor.options}).source
        source = _joined(source, other, f"mentions of {other.name}")
    return source


def _joined(source: Source, other: Source, name: str) -> Source:
    return replace(
        source,
        licence=f"{source.licence}; {name}: {other.licence}",
        files=source.files | {f"{other.name}/{file}": sha256 for file, sha256 in other.files.items()},
    )
