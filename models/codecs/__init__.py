"""Raw input to arrays and back, one file a kind. The same code fits, encodes and decodes.

Knows text and numbers. Does not know tasks, graphs or torch.
"""

from collections.abc import Callable, Sequence

from models.codecs.characters import CharactersCodec
from models.codecs.dna import DnaCodec
from models.codecs.errors import InputError, TooLong
from models.codecs.frames import FramesCodec
from models.codecs.words import WordsCodec
from models.manifest import AnySpec, CharactersSpec, DnaSpec, FramesSpec

Codec = WordsCodec | CharactersCodec | DnaCodec | FramesCodec

__all__ = ["Codec", "InputError", "TooLong", "build"]


def build(spec: AnySpec, vocabulary: Callable[[str], Sequence[str]]) -> Codec:
    """The codec of a spec; `vocabulary` reads the entries of a file that the spec names."""
    if isinstance(spec, DnaSpec):
        return DnaCodec(spec)
    if isinstance(spec, FramesSpec):
        return FramesCodec(spec)
    if isinstance(spec, CharactersSpec):
        return CharactersCodec(spec, vocabulary(spec.characters))
    return WordsCodec(
        spec,
        vocabulary(spec.words),
        vocabulary(spec.stems) if spec.stems else (),
        vocabulary(spec.characters) if spec.characters else (),
    )
