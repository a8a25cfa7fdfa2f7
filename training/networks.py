"""The architectures, in PyTorch, with their shapes at every step.

Knows tensors under the names of the bundle's feeds, so that a network and its ONNX twin take the same input.
Does not know data sets, losses or files.
T steps, B batch, I input features, H hidden, D directions, C characters, N spellings, V vocabulary, K labels.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from models.codecs.characters import CharactersCodec
from models.codecs.words import FIRST, PADDING, UNKNOWN, WordsCodec

CellName = Literal["lstm", "gru"]
Size = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
State = list[tuple[Tensor, ...]]  # one entry a layer: (h,) or (h, c), each (B, H)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What a recipe may ask of a network."""

    cell: CellName = "lstm"
    layers: Size = 1
    hidden: Size = 200
    bidirectional: bool = True
    embedding: Size = 100
    character_embedding: Size = 32
    character_hidden: Size = 50
    dropout: Share = 0.5
    embedding_dropout: Share = 0.3
    word_dropout: Share = 0.0


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the word encoder must know of a codec: for each row of its table, the stem and the spelling."""

    stems: Tensor  # (rows,) row of the stem embedding
    spellings: Tensor  # (C, rows) characters; no column where the row has no spelling of its own
    spelling_lengths: Tensor  # (rows,) 0 where there is none
    stem_count: int
    character_count: int = field(default=0)

    @classmethod
    def of(cls, codec: WordsCodec) -> "Words":
        """Stems: with `stems` in the codec, forms share the embedding of their lower-case stem."""
        rows = codec.table_rows
        forms = len(codec.words)
        stems = torch.arange(rows)
        spellings = torch.zeros(1, rows, dtype=torch.long)
        lengths = torch.zeros(rows, dtype=torch.long)
        if codec.spec.stems:
            index = {stem: row for row, stem in enumerate(codec.stems, FIRST)}
            of_forms = [index.get(word.lower(), UNKNOWN) for word in codec.words]
            stems = torch.tensor([PADDING, UNKNOWN, *of_forms, *range(FIRST, FIRST + len(codec.stems))])
        if codec.characters and forms:
            spelled = [torch.from_numpy(codec.spell(word)).long() for word in codec.words]
            columns = nn.utils.rnn.pad_sequence(spelled)  # (C, forms)
            spellings = torch.zeros(len(columns), rows, dtype=torch.long)
            spellings[:, FIRST : FIRST + forms] = columns
            lengths[FIRST : FIRST + forms] = torch.tensor([len(spelling) for spelling in spelled])
        return cls(
            stems=stems,
            spellings=spellings,
            spelling_lengths=lengths,
            stem_count=FIRST + len(codec.stems) if codec.spec.stems else rows,
            character_count=FIRST + len(codec.characters) if codec.characters else 0,
        )


def reverse(x: Tensor, lengths: Tensor) -> Tensor:
    """Each column of x (T, B, I) turned round within its own length; the padding stays behind."""
    steps = torch.arange(len(x), device=x.device)[:, None]  # (T, 1)
    index = torch.where(steps < lengths[None, :], lengths[None, :] - 1 - steps, steps)  # (T, B)
    return x.gather(0, index[:, :, None].expand_as(x))


class Recurrent(nn.Module):
    """One recurrent layer over ragged sequences, in one or both directions.

    The backward direction runs over sequences that were turned round within their lengths, so that PyTorch's
    fast kernel for unpacked input serves both (packed input takes 2.4 times as long on a CPU).
    """

    def __init__(self, cell: CellName, inputs: int, hidden: int, *, bidirectional: bool) -> None:
        super().__init__()
        make = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
        self.cell, self.hidden, self.directions = cell, hidden, 2 if bidirectional else 1
        self.forwards = make(inputs, hidden)
        self.backwards = make(inputs, hidden) if bidirectional else None
        for name, parameter in self.named_parameters():
            _initialise(name, parameter, cell, hidden)

    @property
    def width(self) -> int:
        return self.directions * self.hidden

    def forward(
        self, x: Tensor, lengths: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (T, B, I), lengths (B,) -> outputs (T, B, D·H), valid where t < length.

        The state, in and out, is that of the forward direction: (h,) or (h, c), each (B, H). It is carried
        from the last step T, so a carried state is right for full columns only (language models).
        """
        initial = None
        if state is not None:
            rows = [part[None] for part in state]
            initial = rows[0] if len(rows) == 1 else tuple(rows)
        y, after = self.forwards(x, initial)
        after = tuple(part[0] for part in (after if isinstance(after, tuple) else (after,)))
        if self.backwards is None:
            return y, after
        z, _ = self.backwards(reverse(x, lengths))
        return torch.cat([y, reverse(z, lengths)], dim=2), after

    def last(self, y: Tensor, lengths: Tensor) -> Tensor:
        """The final hidden state of each direction (B, D·H) out of the outputs y (T, B, D·H)."""
        index = (lengths - 1).clamp(min=0)[None, :, None].expand(1, -1, self.hidden)
        final = y[:, :, : self.hidden].gather(0, index)[0]
        return final if self.backwards is None else torch.cat([final, y[0, :, self.hidden :]], dim=1)


def _initialise(name: str, parameter: Tensor, cell: CellName, hidden: int) -> None:
    """Orthogonal recurrent and Glorot input matrices; forget-gate bias 1 (Jozefowicz et al. 2015)."""
    with torch.no_grad():
        if "weight_hh" in name:
            for gate in parameter.split(hidden):
                nn.init.orthogonal_(gate)
        elif "weight_ih" in name:
            nn.init.xavier_uniform_(parameter)
        else:
            parameter.zero_()
            if cell == "lstm" and "bias_ih" in name:
                parameter[hidden : 2 * hidden] = 1.0  # PyTorch's order of gates: i f g o


class Stack(nn.Module):
    """Recurrent layers on top of one another, with dropout between them."""

    def __init__(self, shape: Architecture, inputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(shape.layers):
            layer = Recurrent(shape.cell, inputs, shape.hidden, bidirectional=shape.bidirectional)
            self.layers.append(layer)
            inputs = layer.width
        self.width = inputs
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """x (T, B, I) -> (T, B, width), and the state of each layer after the last step."""
        after: State = []
        for index, layer in enumerate(self.layers):
            if index:
                x = self.dropout(x)
            x, rows = layer(x, lengths, state[index] if state else None)
            after.append(rows)
        return x, after


class WordEncoder(nn.Module):
    """A vector for every word: the embedding of its stem beside what a recurrent layer reads in its spelling."""

    def __init__(self, shape: Architecture, words: Words) -> None:
        super().__init__()
        self.stem_embedding = nn.Embedding(words.stem_count, shape.embedding, padding_idx=PADDING)
        nn.init.normal_(self.stem_embedding.weight, std=0.3)
        self.word_dropout = shape.word_dropout
        self.dropout = nn.Dropout(shape.embedding_dropout)
        self.register_buffer("stems", words.stems, persistent=False)
        self.register_buffer("spellings", words.spellings, persistent=False)
        self.register_buffer("spelling_lengths", words.spelling_lengths, persistent=False)
        self.width = shape.embedding
        self.character_embedding, self.speller = None, None
        if words.character_count:
            self.character_embedding = nn.Embedding(words.character_count, shape.character_embedding)
            self.speller = Recurrent(shape.cell, shape.character_embedding, shape.character_hidden, bidirectional=True)
            self.width += self.speller.width

    def spell(self, spellings: Tensor, lengths: Tensor) -> Tensor:
        """Characters (C, N) to vectors (N, width of the speller); zeros where the length is 0."""
        assert self.character_embedding is not None
        assert self.speller is not None
        y, _ = self.speller(self.character_embedding(spellings), lengths)
        return self.speller.last(y, lengths) * (lengths > 0)[:, None]

    def forward(
        self, words: Tensor, unseen: Tensor | None, spellings: Tensor | None, spelling_lengths: Tensor | None
    ) -> Tensor:
        """words (T, B) and, as in WordsCodec.collate, unseen (T, B), spellings (C, N) -> (T, B, width)."""
        stems = self.stems[words]
        if self.training and self.word_dropout:
            dropped = torch.rand(stems.shape, device=stems.device) < self.word_dropout
            stems = stems.masked_fill(dropped & (stems != PADDING), UNKNOWN)
        x = self.stem_embedding(stems)  # (T, B, E)
        if self.speller is not None:
            rows, place = words.unique(return_inverse=True)
            known = self.spell(self.spellings[:, rows], self.spelling_lengths[rows])[place]  # (T, B, 2·Hc)
            if unseen is not None and spellings is not None and bool(unseen.any()):
                spelled = self.spell(spellings, spelling_lengths)
                known = known + torch.cat([torch.zeros_like(spelled[:1]), spelled])[unseen]
            x = torch.cat([x, known], dim=2)
        return self.dropout(x)

    @torch.no_grad()
    def spelled(self, chunk: int = 2048) -> Tensor:
        """The vector (rows, width of the speller) of the spelling of every row of the codec's table."""
        parts = zip(self.spellings.split(chunk, dim=1), self.spelling_lengths.split(chunk), strict=True)
        return torch.cat([self.spell(*part) for part in parts])


class Tagger(nn.Module):
    """Synced many-to-many: a label for every word."""

    def __init__(self, shape: Architecture, words: Words, labels: int) -> None:
        super().__init__()
        self.encoder = WordEncoder(shape, words)
        self.stack = Stack(shape, self.encoder.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(self.stack.width, labels)

    def forward(
        self,
        words: Tensor,
        lengths: Tensor,
        unseen: Tensor | None = None,
        spellings: Tensor | None = None,
        spelling_lengths: Tensor | None = None,
    ) -> Tensor:
        """Feeds of WordsCodec.collate -> logits (T, B, K)."""
        x = self.encoder(words, unseen, spellings, spelling_lengths)
        y, _ = self.stack(x, lengths)
        return self.head(self.dropout(y))


class Classifier(nn.Module):
    """Many-to-one: the maximum over time beside the final states, then a label for the whole."""

    def __init__(self, shape: Architecture, words: Words, labels: int) -> None:
        super().__init__()
        self.encoder = WordEncoder(shape, words)
        self.stack = Stack(shape, self.encoder.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(2 * self.stack.width, labels)

    def forward(
        self,
        words: Tensor,
        lengths: Tensor,
        unseen: Tensor | None = None,
        spellings: Tensor | None = None,
        spelling_lengths: Tensor | None = None,
    ) -> Tensor:
        """Feeds of WordsCodec.collate -> logits (B, K)."""
        x = self.encoder(words, unseen, spellings, spelling_lengths)
        y, _ = self.stack(x, lengths)  # (T, B, D·H)
        valid = (torch.arange(len(y), device=y.device)[:, None] < lengths[None, :])[:, :, None]
        highest = y.masked_fill(~valid, OUT_OF_RANGE).amax(dim=0)  # (B, D·H)
        last = self.stack.layers[-1].last(y, lengths)
        return self.head(self.dropout(torch.cat([highest, last], dim=1)))


OUT_OF_RANGE = -2.0  # below every hidden state, which lies in (-1, 1): never the maximum of a sequence


class LanguageModel(nn.Module):
    """One-to-many: the distribution of the next character, with a state that is carried on."""

    def __init__(self, shape: Architecture, codec: CharactersCodec) -> None:
        super().__init__()
        if shape.bidirectional:
            raise ValueError("a language model cannot be bidirectional: set bidirectional = false in the recipe")
        self.embedding = nn.Embedding(codec.table_rows, shape.embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.embedding_dropout = nn.Dropout(shape.embedding_dropout)
        self.stack = Stack(shape, shape.embedding)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(self.stack.width, codec.table_rows)
        never = torch.zeros(codec.table_rows)
        never[[PADDING, UNKNOWN]] = -torch.inf  # no text holds them: they get no probability and are never drawn
        self.register_buffer("never", never, persistent=False)

    def forward(self, characters: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """characters (T, B) -> logits (T, B, V), and the state after the last step."""
        y, after = self.stack(self.embedding_dropout(self.embedding(characters)), lengths, state)
        return self.head(self.dropout(y)) + self.never, after


Network = Tagger | Classifier | LanguageModel
