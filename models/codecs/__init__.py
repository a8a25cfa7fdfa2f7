"""Codecs turn raw input into arrays and back. Training and serving use the same code."""

from collections.abc import Callable, Sequence

from models.codecs.base import InputError, TooLong
from models.codecs.characters import CharactersCodec, DnaCodec
from models.codecs.frames import FramesCodec
from models.codecs.images import ImageCodec
from models.codecs.pieces import PiecesCodec
from models.codecs.series import SeriesCodec
from models.codecs.words import WordsCodec
from models.manifest import AnySpec, CharactersSpec, DnaSpec, FramesSpec, ImageSpec, PiecesSpec, SeriesSpec

Codec = WordsCodec | CharactersCodec | DnaCodec | FramesCodec | SeriesCodec | PiecesCodec | ImageCodec

__all__ = [
    "CharactersCodec",
    "Codec",
    "DnaCodec",
    "FramesCodec",
    "ImageCodec",
    "InputError",
    "PiecesCodec",
    "SeriesCodec",
    "TooLong",
    "WordsCodec",
    "build",
]


def build(spec: AnySpec, read_vocabulary: Callable[[str], Sequence[str]]) -> Codec:
    """Build the codec of a manifest. `read_vocabulary` returns the entries of a file that the spec names."""
    if isinstance(spec, DnaSpec):
        return DnaCodec(spec)
    if isinstance(spec, FramesSpec):
        return FramesCodec(spec)
    if isinstance(spec, ImageSpec):
        return ImageCodec(spec)
    if isinstance(spec, SeriesSpec):
        return SeriesCodec(spec)
    if isinstance(spec, PiecesSpec):
        return PiecesCodec(spec, read_vocabulary(spec.pieces), read_vocabulary(spec.merges))
    if isinstance(spec, CharactersSpec):
        return CharactersCodec(spec, read_vocabulary(spec.characters))
    return WordsCodec(
        spec,
        read_vocabulary(spec.words),
        read_vocabulary(spec.stems) if spec.stems else (),
        read_vocabulary(spec.characters) if spec.characters else (),
    )
