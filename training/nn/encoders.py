"""From feeds to vectors, a vector a step: what stands before the recurrent layers, one encoder a kind of input.

Knows the feeds of the codecs by name. Does not know tasks, losses or files.
T steps, B batch, I features of a vector, E embedding, C characters, N spellings, G n-grams, F numbers of a frame.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from models.codecs.characters import CharactersCodec
from models.codecs.dna import CODES, DnaCodec
from models.codecs.words import FIRST, PADDING, UNKNOWN, WordsCodec
from training.nn.options import Architecture
from training.nn.recurrent import Recurrent

OUT_OF_RANGE = -2.0  # below every hidden state, which lies in (-1, 1): never the maximum of a sequence
CLIP = 5.0  # standard deviations: what is farther out in a frame is cut there, so that int8 has a fixed range
LETTERS_A_TURN = 3  # the width of the window of a character CNN (Ma and Hovy 2016)


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the word encoder must know of a codec: for each row of its table, the stem, the spelling, the n-grams."""

    stems: Tensor  # (rows,) row of the stem embedding
    spellings: Tensor  # (C, rows) characters; no column where the row has no spelling of its own
    spelling_lengths: Tensor  # (rows,) 0 where there is none
    subwords: Tensor  # (G, rows) rows of the table of n-grams
    subword_counts: Tensor  # (rows,)
    stem_count: int
    character_count: int = field(default=0)
    subword_rows: int = field(default=0)

    @classmethod
    def of(cls, codec: WordsCodec) -> "Words":
        """Stems: with `stems` in the codec, forms share the embedding of their lower-case stem."""
        rows = codec.table_rows
        stems = torch.arange(rows)
        if codec.spec.stems:
            index = {stem: row for row, stem in enumerate(codec.stems, FIRST)}
            of_forms = [index.get(word.lower(), UNKNOWN) for word in codec.words]
            stems = torch.tensor([PADDING, UNKNOWN, *of_forms, *range(FIRST, FIRST + len(codec.stems))])
        spell = [codec.spell(word) for word in codec.words] if codec.characters else []
        split = [codec.split(word) for word in codec.words] if codec.spec.subwords else []
        spellings, spelling_lengths = _columns(spell, rows)
        subwords, subword_counts = _columns(split, rows)
        return cls(
            stems=stems,
            spellings=spellings,
            spelling_lengths=spelling_lengths,
            subwords=subwords,
            subword_counts=subword_counts,
            stem_count=FIRST + len(codec.stems) if codec.spec.stems else rows,
            character_count=FIRST + len(codec.characters) if codec.characters else 0,
            subword_rows=1 + codec.spec.subwords.buckets if codec.spec.subwords else 0,
        )


def _columns(of_forms: list[np.ndarray], rows: int) -> tuple[Tensor, Tensor]:
    """Ragged lists, one a form, as columns (C, rows) with their lengths (rows,); the other rows have none."""
    lengths = torch.zeros(rows, dtype=torch.long)
    if not of_forms:
        return torch.zeros(1, rows, dtype=torch.long), lengths
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(entries).long() for entries in of_forms])
    columns = torch.zeros(len(padded), rows, dtype=torch.long)
    columns[:, FIRST : FIRST + len(of_forms)] = padded
    lengths[FIRST : FIRST + len(of_forms)] = torch.tensor([len(entries) for entries in of_forms])
    return columns, lengths


class LetterCells(nn.Module):
    """A spelling read by a recurrent layer in both directions: its final states."""

    def __init__(self, shape: Architecture, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, shape.character_embedding)
        self.layer = Recurrent("lstm", shape.character_embedding, shape.character_hidden, bidirectional=True)
        self.width = self.layer.width

    def forward(self, spellings: Tensor, lengths: Tensor) -> Tensor:
        """(C, N), (N,) -> (N, width)."""
        y, _ = self.layer(self.embedding(spellings), lengths)
        return self.layer.last(y, lengths)


class LetterWindows(nn.Module):
    """A spelling read by windows of three letters: the maximum of each filter, through tanh (Ma and Hovy 2016)."""

    def __init__(self, shape: Architecture, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, shape.character_embedding)
        self.filters = nn.Linear(LETTERS_A_TURN * shape.character_embedding, shape.character_hidden)
        self.width = shape.character_hidden

    def forward(self, spellings: Tensor, lengths: Tensor) -> Tensor:
        """(C, N), (N,) -> (N, width)."""
        valid = (torch.arange(len(spellings), device=lengths.device)[:, None] < lengths[None, :])[:, :, None]
        x = self.embedding(spellings) * valid  # (C, N, E)
        nothing = torch.zeros_like(x[:1])
        windows = torch.cat([torch.cat([nothing, x[:-1]]), x, torch.cat([x[1:], nothing])], dim=2)  # (C, N, 3·E)
        found = torch.tanh(self.filters(windows))  # tanh is monotonic: before or after the maximum is the same
        return found.masked_fill(~valid, OUT_OF_RANGE).amax(dim=0)


class WordEncoder(nn.Module):
    """A vector for every word: the embedding of its stem, beside what its letters and its n-grams say."""

    def __init__(self, shape: Architecture, words: Words) -> None:
        super().__init__()
        self.stem_embedding = nn.Embedding(words.stem_count, shape.embedding, padding_idx=PADDING)
        nn.init.normal_(self.stem_embedding.weight, std=0.3)
        with torch.no_grad():
            self.stem_embedding.weight[PADDING] = 0
        self.word_dropout, self.rare_dropout = shape.word_dropout, shape.rare_dropout
        self.dropout = nn.Dropout(shape.embedding_dropout)
        self.register_buffer("counts", torch.zeros(words.stem_count), persistent=False)  # in training: `count` fills it
        for name in ("stems", "spellings", "spelling_lengths", "subwords", "subword_counts"):
            self.register_buffer(name, getattr(words, name), persistent=False)
        self.width = shape.embedding
        self.speller: LetterCells | LetterWindows | None = None
        if words.character_count:
            speller = LetterCells if shape.characters == "lstm" else LetterWindows
            self.speller = speller(shape, words.character_count)
            self.width += self.speller.width
        self.subword_embedding: nn.Embedding | None = None
        if words.subword_rows:
            self.subword_embedding = nn.Embedding(words.subword_rows, shape.subword_embedding, padding_idx=PADDING)
            nn.init.normal_(self.subword_embedding.weight, std=0.3)
            with torch.no_grad():
                self.subword_embedding.weight[PADDING] = 0
            self.width += shape.subword_embedding

    @property
    def reads_form(self) -> bool:
        """Whether a word's vector depends on its form, beside its stem."""
        return self.speller is not None or self.subword_embedding is not None

    def form(
        self, spellings: Tensor | None, lengths: Tensor | None, subwords: Tensor | None, counts: Tensor | None
    ) -> Tensor:
        """Characters (C, N) with their lengths, n-grams (G, N) with their counts -> (N, width of a form).

        Zeros where a form has no letters; the n-grams are averaged (Bojanowski et al. 2017 sum them).
        """
        parts = []
        if self.speller is not None:
            assert spellings is not None
            assert lengths is not None
            parts.append(self.speller(spellings, lengths) * (lengths > 0)[:, None])
        if self.subword_embedding is not None:
            assert subwords is not None
            assert counts is not None
            parts.append(self.subword_embedding(subwords).sum(0) / counts.clamp(min=1)[:, None])
        return torch.cat(parts, dim=1)

    def forward(
        self,
        words: Tensor,
        unseen: Tensor | None = None,
        spellings: Tensor | None = None,
        spelling_lengths: Tensor | None = None,
        subwords: Tensor | None = None,
        subword_counts: Tensor | None = None,
    ) -> Tensor:
        """Feeds of WordsCodec.collate, words (T, B) -> (T, B, width)."""
        stems = self.stems[words]
        if self.training and (self.word_dropout or self.rare_dropout):
            # Rare words more often than frequent ones (Kiperwasser and Goldberg 2016).
            rare = self.rare_dropout / (self.rare_dropout + self.counts[stems].clamp(min=1))
            dropped = torch.rand(stems.shape, device=stems.device) < self.word_dropout + rare
            stems = stems.masked_fill(dropped & (stems != PADDING), UNKNOWN)
        x = self.stem_embedding(stems)  # (T, B, E)
        if self.reads_form:
            rows, place = words.unique(return_inverse=True)
            forms = self.form(
                self.spellings[:, rows], self.spelling_lengths[rows], self.subwords[:, rows], self.subword_counts[rows]
            )[place]  # (T, B, width of a form)
            if unseen is not None and bool(unseen.any()):
                fresh = self.form(spellings, spelling_lengths, subwords, subword_counts)
                forms = forms + torch.cat([torch.zeros_like(fresh[:1]), fresh])[unseen]
            x = torch.cat([x, forms], dim=2)
        return self.dropout(x)

    def count(self, rows: Tensor) -> None:
        """Take note of how often each word comes, from all rows of the codec's table in the training data (N,)."""
        self.counts.copy_(torch.bincount(self.stems[rows], minlength=len(self.counts)))

    @torch.no_grad()
    def forms(self, chunk: int = 2048) -> Tensor:
        """The vector (rows, width of a form) of the form of every row of the codec's table."""
        parts = zip(
            self.spellings.split(chunk, dim=1),
            self.spelling_lengths.split(chunk),
            self.subwords.split(chunk, dim=1),
            self.subword_counts.split(chunk),
            strict=True,
        )
        return torch.cat([self.form(*part) for part in parts])


class SymbolEncoder(nn.Module):
    """A vector for every symbol, a character or a base; a base may have one for each place in the sequence."""

    def __init__(self, shape: Architecture, codec: CharactersCodec | DnaCodec) -> None:
        super().__init__()
        self.of_bases = isinstance(codec, DnaCodec)
        self.positions = codec.spec.positions if isinstance(codec, DnaCodec) else 0
        mixture = _mixture(codec)  # (rows of the table, symbols): what each row is made of
        self.embedding = nn.Embedding(mixture.shape[1], shape.embedding)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.place = nn.Embedding(self.positions, shape.embedding) if self.positions else None
        self.register_buffer("mixture", mixture, persistent=False)
        self.word_dropout, self.dropout = shape.word_dropout, nn.Dropout(shape.embedding_dropout)
        self.width = shape.embedding

    def table(self) -> Tensor:
        """The vector (rows, E) of every row of the codec's table."""
        symbols = self.mixture @ self.embedding.weight
        if self.place is None:
            return symbols
        own, of_places = symbols[:FIRST], symbols[FIRST:].reshape(self.positions, -1, self.width)
        return torch.cat([own, (of_places + self.place.weight[:, None, :]).flatten(0, 1)])

    def forward(self, **feeds: Tensor) -> Tensor:
        """The one feed, rows of the codec's table (T, B) -> (T, B, width)."""
        (rows,) = feeds.values()  # "characters" or "bases"
        if self.training and self.word_dropout:
            dropped = torch.rand(rows.shape, device=rows.device) < self.word_dropout
            rows = rows.masked_fill(dropped & (rows != PADDING), UNKNOWN)
        return self.dropout(nn.functional.embedding(rows, self.table()))


def _mixture(codec: CharactersCodec | DnaCodec) -> Tensor:
    """A character is itself. A base is itself, an ambiguity code an even mixture of its bases, a gap nothing."""
    if isinstance(codec, CharactersCodec):
        return torch.eye(codec.table_rows)
    places = max(1, codec.spec.positions)
    codes = torch.tensor([[letter in bases for letter in "ACGT"] for bases in CODES.values()], dtype=torch.float)
    codes = codes / codes.sum(1, keepdim=True).clamp(min=1)  # (codes, 4)
    unknown = torch.zeros(FIRST, 4)
    unknown[UNKNOWN] = 0.25
    return torch.cat([unknown, codes.repeat(places, 1)])


class FrameEncoder(nn.Module):
    """Frames of numbers, standardised by what training saw; in training with noise."""

    def __init__(self, shape: Architecture, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))  # filled by networks.standardise before training
        self.register_buffer("deviation", torch.ones(features))
        self.noise, self.dropout = shape.noise, nn.Dropout(shape.embedding_dropout)
        self.width = features

    def forward(self, frames: Tensor) -> Tensor:
        """(T, B, F) -> (T, B, F)."""
        x = ((frames - self.mean) / self.deviation).clamp(-CLIP, CLIP)
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        return self.dropout(x)


Encoder = WordEncoder | SymbolEncoder | FrameEncoder
