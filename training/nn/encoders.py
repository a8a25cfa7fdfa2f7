"""Encoders: from a codec's feeds to one vector per step. There is one encoder for each kind of input.

T steps, B batch, E embedding, C characters, N forms (spelled words), G n-grams, F features of a frame, V table rows,
S patches.
"""

import numpy as np
import torch
from torch import Tensor, nn

from models.codecs.base import FIRST, PADDING, UNKNOWN
from models.codecs.characters import CODES, CharactersCodec, DnaCodec
from models.codecs.images import BRIGHTEST, CHANNELS
from models.codecs.words import WordsCodec
from models.manifest import ImageSpec
from training.nn.recurrent import RecurrentLayer
from training.options import Architecture

OUT_OF_RANGE = -2.0  # below every tanh, so never the maximum of a sequence
FRAME_LIMIT = 5.0  # standard deviations: frames are clamped there, so that int8 has a fixed range
FORM_CHUNK = 2048  # table rows that are encoded together
KERNEL = 3  # pixels of a side of a convolution
CNN_WINDOW = 3  # characters (Ma and Hovy 2016)


def _columns(of_forms: list[np.ndarray], rows: int) -> tuple[Tensor, Tensor]:
    """Return ragged arrays, one per form, as padded columns (C, V) with their lengths (V,)."""
    lengths = torch.zeros(rows, dtype=torch.long)
    if not of_forms:
        return torch.zeros(1, rows, dtype=torch.long), lengths
    padded = nn.utils.rnn.pad_sequence([torch.from_numpy(entries).long() for entries in of_forms])
    columns = torch.zeros(len(padded), rows, dtype=torch.long)
    columns[:, FIRST : FIRST + len(of_forms)] = padded
    lengths[FIRST : FIRST + len(of_forms)] = torch.tensor([len(entries) for entries in of_forms])
    return columns, lengths


class SpellingLSTM(nn.Module):
    """The final states of a bidirectional LSTM over a word's characters (Lample et al. 2016)."""

    def __init__(self, shape: Architecture, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, shape.character_embedding)
        self.layer = RecurrentLayer("lstm", shape.character_embedding, shape.character_hidden, bidirectional=True)
        self.width = self.layer.width

    def forward(self, spellings: Tensor, lengths: Tensor) -> Tensor:
        """Return vectors (N, width) of spellings (C, N) with lengths (N,)."""
        y, _ = self.layer(self.embedding(spellings), lengths)
        return self.layer.final(y, lengths)


class SpellingCNN(nn.Module):
    """The maximum over time of a convolution over a word's characters (Ma and Hovy 2016)."""

    def __init__(self, shape: Architecture, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, shape.character_embedding)
        self.filters = nn.Linear(CNN_WINDOW * shape.character_embedding, shape.character_hidden)
        self.width = shape.character_hidden

    def forward(self, spellings: Tensor, lengths: Tensor) -> Tensor:
        """Return vectors (N, width) of spellings (C, N) with lengths (N,)."""
        valid = (torch.arange(len(spellings), device=lengths.device)[:, None] < lengths[None, :])[:, :, None]
        x = self.embedding(spellings) * valid  # (C, N, E)
        edge = torch.zeros_like(x[:1])
        windows = torch.cat([torch.cat([edge, x[:-1]]), x, torch.cat([x[1:], edge])], dim=2)  # (C, N, 3·E)
        filtered = torch.tanh(self.filters(windows))  # (C, N, width)
        return filtered.masked_fill(~valid, OUT_OF_RANGE).amax(dim=0)


def _embedding(rows: int, width: int) -> nn.Embedding:
    """Return an embedding with zeros for the padding row."""
    embedding = nn.Embedding(rows, width, padding_idx=PADDING)
    nn.init.normal_(embedding.weight, std=0.3)
    with torch.no_grad():
        embedding.weight[PADDING] = 0
    return embedding


class WordEncoder(nn.Module):
    """Words as the concatenation of their stem's embedding, their spelling's vector and their n-grams' mean."""

    def __init__(self, shape: Architecture, codec: WordsCodec) -> None:
        super().__init__()
        rows, spec = codec.table_rows, codec.spec
        stems, stem_count = torch.arange(rows), rows
        if spec.stems:  # forms share the embedding of their lower-case stem
            index = {stem: row for row, stem in enumerate(codec.stems, FIRST)}
            of_forms = [index.get(word.lower(), UNKNOWN) for word in codec.words]
            stem_count = FIRST + len(codec.stems)
            stems = torch.tensor([PADDING, UNKNOWN, *of_forms, *range(FIRST, stem_count)])
        spellings = _columns([codec.spelling(word) for word in codec.words] if codec.characters else [], rows)
        ngrams = _columns([codec.ngrams(word) for word in codec.words] if spec.subwords else [], rows)
        tables = {
            "stems": stems,  # (V,) row of the stem embedding
            "spellings": spellings[0],  # (C, V) characters, zeros for a row without a spelling
            "spelling_lengths": spellings[1],  # (V,) 0 for a row without a spelling
            "subwords": ngrams[0],  # (G, V) rows of the n-gram embedding
            "subword_counts": ngrams[1],  # (V,)
            "counts": torch.zeros(stem_count),  # occurrences of each stem in the training data
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        self.stem_embedding = _embedding(stem_count, shape.embedding)
        self.word_dropout, self.rare_dropout = shape.word_dropout, shape.rare_dropout
        self.dropout = nn.Dropout(shape.embedding_dropout)
        self.width = shape.embedding
        self.speller, self.subword_embedding = None, None
        if codec.characters:
            speller = SpellingLSTM if shape.characters == "lstm" else SpellingCNN
            self.speller = speller(shape, FIRST + len(codec.characters))
            self.width += self.speller.width
        if spec.subwords:
            self.subword_embedding = _embedding(1 + spec.subwords.buckets, shape.subword_embedding)
            self.width += shape.subword_embedding

    @property
    def has_forms(self) -> bool:
        """Whether a word's vector depends on its form in addition to its stem."""
        return self.speller is not None or self.subword_embedding is not None

    def encode_forms(
        self, spellings: Tensor | None, lengths: Tensor | None, subwords: Tensor | None, counts: Tensor | None
    ) -> Tensor:
        """Return form vectors (N, form width) of characters (C, N), lengths (N,), n-grams (G, N) and counts (N,).

        A form without characters gets zeros. N-grams are averaged; Bojanowski et al. 2017 sum them.
        """
        parts = []
        if self.speller is not None:
            parts.append(self.speller(spellings, lengths) * (lengths > 0)[:, None])
        if self.subword_embedding is not None:
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
        """Return vectors (T, B, width) for the feeds of WordsCodec.collate.

        words (T, B) are table rows. unseen (T, B) is 0, or 1 + the column of a word in `spellings` (C, N).
        """
        stems = self.stems[words]
        if self.training and (self.word_dropout or self.rare_dropout):
            # Drop rare words more often than frequent ones (Kiperwasser and Goldberg 2016).
            rare = self.rare_dropout / (self.rare_dropout + self.counts[stems].clamp(min=1))
            dropped = torch.rand(stems.shape, device=stems.device) < self.word_dropout + rare
            stems = stems.masked_fill(dropped & (stems != PADDING), UNKNOWN)
        x = self.stem_embedding(stems)  # (T, B, E)
        if self.has_forms:
            rows, place = words.unique(return_inverse=True)
            forms = self.encode_forms(
                self.spellings[:, rows], self.spelling_lengths[rows], self.subwords[:, rows], self.subword_counts[rows]
            )[place]  # (T, B, form width)
            if unseen is not None and bool(unseen.any()):
                fresh = self.encode_forms(spellings, spelling_lengths, subwords, subword_counts)
                forms = forms + torch.cat([torch.zeros_like(fresh[:1]), fresh])[unseen]
            x = torch.cat([x, forms], dim=2)
        return self.dropout(x)

    def count_words(self, rows: Tensor) -> None:
        """Count each stem in the training data, for `rare_dropout`. rows (N,) are all its table rows."""
        self.counts.copy_(torch.bincount(self.stems[rows], minlength=len(self.counts)))

    @torch.no_grad()
    def form_table(self) -> Tensor:
        """Return the form vector (V, form width) of every table row."""
        tables = (self.spellings, self.spelling_lengths, self.subwords, self.subword_counts)
        chunks = zip(*(table.split(FORM_CHUNK, dim=-1) for table in tables), strict=True)
        return torch.cat([self.encode_forms(*chunk) for chunk in chunks])


class SymbolEncoder(nn.Module):
    """Characters or bases as embeddings; a base may add an embedding of its position."""

    def __init__(self, shape: Architecture, codec: CharactersCodec | DnaCodec) -> None:
        super().__init__()
        self.is_dna = isinstance(codec, DnaCodec)
        self.positions = codec.spec.positions if isinstance(codec, DnaCodec) else 0
        if isinstance(codec, CharactersCodec):
            mixture = torch.eye(codec.table_rows)
        else:  # an ambiguity code is an even mixture of its bases, and a gap is zeros
            codes = torch.tensor([[letter in bases for letter in "ACGT"] for bases in CODES.values()]).float()
            codes = codes / codes.sum(1, keepdim=True).clamp(min=1)  # (codes, 4)
            unknown = torch.zeros(FIRST, 4)
            unknown[UNKNOWN] = 0.25
            mixture = torch.cat([unknown, codes.repeat(max(1, self.positions), 1)])
        self.embedding = nn.Embedding(mixture.shape[1], shape.embedding)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.place = nn.Embedding(self.positions, shape.embedding) if self.positions else None
        self.register_buffer("mixture", mixture, persistent=False)  # (V, symbols): shares of each symbol in a row
        self.word_dropout, self.dropout = shape.word_dropout, nn.Dropout(shape.embedding_dropout)
        self.width = shape.embedding

    def table(self) -> Tensor:
        """Return the vector (V, E) of every table row."""
        symbols = self.mixture @ self.embedding.weight
        if self.place is None:
            return symbols
        special, by_position = symbols[:FIRST], symbols[FIRST:].reshape(self.positions, -1, self.width)
        return torch.cat([special, (by_position + self.place.weight[:, None, :]).flatten(0, 1)])

    def forward(self, **feeds: Tensor) -> Tensor:
        """Return vectors (T, B, width) for the one feed, "characters" or "bases": table rows (T, B)."""
        (rows,) = feeds.values()
        if self.training and self.word_dropout:
            dropped = torch.rand(rows.shape, device=rows.device) < self.word_dropout
            rows = rows.masked_fill(dropped & (rows != PADDING), UNKNOWN)
        return self.dropout(nn.functional.embedding(rows, self.table()))


class FrameEncoder(nn.Module):
    """Frames standardized with the mean and deviation of the training data; in training with noise."""

    def __init__(self, shape: Architecture, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))  # set by networks.fit_standardization
        self.register_buffer("deviation", torch.ones(features))
        self.noise, self.dropout = shape.noise, nn.Dropout(shape.embedding_dropout)
        self.width = features

    def forward(self, frames: Tensor) -> Tensor:
        """Return standardized frames (T, B, F)."""
        x = ((frames - self.mean) / self.deviation).clamp(-FRAME_LIMIT, FRAME_LIMIT)
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        return self.dropout(x)


class ImageEncoder(nn.Module):
    """Convolutions over the pixels of a picture, with one vector for each patch.

    The first convolutions have a stride of 2, until a position is a patch, and the others a stride of 1. A vector for
    each place is learned, because attention knows no order. It starts as a linear function of the two coordinates (Liu
    et al. 2018). White is 0, so that an empty ground adds little.
    """

    def __init__(self, shape: Architecture, spec: ImageSpec) -> None:
        super().__init__()
        self.spec, self.noise, self.width = spec, shape.noise, shape.filters[-1]
        halvings = spec.patch.bit_length() - 1
        if len(shape.filters) < halvings:
            raise ValueError(f"architecture.filters has {len(shape.filters)} numbers; give at least {halvings}")
        widths = zip((CHANNELS, *shape.filters), shape.filters, strict=False)
        self.layers = nn.ModuleList(
            nn.Conv2d(wide, count, KERNEL, stride=2 if number < halvings else 1, padding=KERNEL // 2)
            for number, (wide, count) in enumerate(widths)
        )
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        along = torch.linspace(-1, 1, spec.grid)
        down, across = torch.randn(2, self.width, 1, 1)
        self.places = nn.Parameter(down * along[:, None] + across * along)  # (C, grid, grid)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return vectors (S, B, width) for the patches (S, B, patch · patch · 3) of pictures, from 0 to 255."""
        spec = self.spec
        x = pixels.unflatten(2, (spec.patch, spec.patch, CHANNELS)).unflatten(0, (spec.grid, spec.grid))
        x = x.permute(2, 5, 0, 3, 1, 4).reshape(-1, CHANNELS, spec.size, spec.size)  # (B, 3, height, width)
        x = 1 - x / BRIGHTEST
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        *first, last = self.layers
        for layer in first:
            x = torch.relu(layer(x))
        return torch.relu(last(x) + self.places).flatten(2).permute(2, 0, 1)


Encoder = WordEncoder | SymbolEncoder | FrameEncoder
