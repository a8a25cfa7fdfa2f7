"""The architectures, in PyTorch: encoder, recurrent layers, heads.

Knows tensors under the names of the bundle's feeds, so that a network and its ONNX twin take the same input.
Does not know data sets, losses or files.
T steps, B batch, I features, W columns of the stack's output, V vocabulary, K labels of a step, L labels of a whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.codecs import Codec
from models.codecs.characters import CharactersCodec
from models.codecs.frames import FramesCodec
from models.codecs.words import PADDING, UNKNOWN, WordsCodec
from training.nn.crf import LinearChain, forbidden
from training.nn.encoders import Encoder, FrameEncoder, SymbolEncoder, WordEncoder, Words
from training.nn.options import Architecture
from training.nn.pooling import Pooling
from training.nn.recurrent import Stack, State

CONSTANT = 1e-6  # of the mean: a deviation below is a feature that never changes


def make_encoder(shape: Architecture, codec: Codec) -> Encoder:
    """The encoder of a codec's feeds."""
    if isinstance(codec, WordsCodec):
        return WordEncoder(shape, Words.of(codec))
    if isinstance(codec, FramesCodec):
        return FrameEncoder(shape, codec.spec.features)
    return SymbolEncoder(shape, codec)


class SequenceNetwork(nn.Module):
    """Labels for the steps of a sequence (synced many-to-many), for the whole (many-to-one), or both from one stack.

    `step_labels` K and `text_labels` L: as many as there are, 0 for a head that is not wanted. With `chain` the step
    labels are decoded together. `merged` (M, L), of ones and zeros, says which of the labels of the whole are answered
    as one; what it leaves out is learnt, and never answered. `auxiliary_labels`: of the steps, in a task that is learnt
    beside and never answered at all.
    """

    def __init__(
        self,
        shape: Architecture,
        codec: Codec,
        *,
        step_labels: int,
        text_labels: int,
        chain: LinearChain | None = None,
        merged: Tensor | None = None,
        auxiliary_labels: int = 0,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(shape, codec)
        self.stack = Stack(shape, self.encoder.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.auxiliary = nn.Linear(self.stack.width, auxiliary_labels) if auxiliary_labels else None
        self.step_head = nn.Linear(self.stack.width, step_labels) if step_labels else None
        self.chain = chain
        self.register_buffer("merged", merged, persistent=False)
        self.pooling, self.text_head = None, None
        if text_labels:
            self.pooling = Pooling(shape, self.stack)
            self.text_head = nn.Linear(self.pooling.width, text_labels)

    @property
    def streams(self) -> bool:
        """Whether its labels come step by step, so that it can go on from a state."""
        alone = self.step_head is not None and self.text_head is None and self.chain is None
        forwards = all(layer.directions == 1 for layer in self.stack.layers)
        of_places = isinstance(self.encoder, SymbolEncoder) and self.encoder.place is not None
        return alone and forwards and not of_places

    def read(self, *, lengths: Tensor, state: State | None = None, **feeds: Tensor) -> tuple[Tensor, State]:
        """Feeds of the codec's collate -> the stack's output (T, B, W), and the state after the last step T."""
        y: Tensor
        y, after = self.stack(self.encoder(**feeds), lengths, state)
        return y, after

    def forward(self, *, lengths: Tensor, state: State | None = None, **feeds: Tensor) -> dict[str, Tensor]:
        """Feeds of the codec's collate -> logits: "steps" (T, B, K), "text" (B, L), as far as there are heads; beside
        "text" what it is read from, "embedding" (B, pooling's width).
        """
        y, _ = self.read(lengths=lengths, state=state, **feeds)
        logits = {}
        if self.auxiliary is not None and self.training:
            logits["auxiliary"] = self.auxiliary(self.dropout(y))
        if self.step_head is not None:
            logits["steps"] = self.step_head(self.dropout(y))
        if self.pooling is not None and self.text_head is not None:
            pooled = self.pooling(y, lengths, self.stack.final(y, lengths))
            logits["text"], logits["embedding"] = self.text_head(self.dropout(pooled)), pooled
        return logits

    @torch.no_grad()
    def answers(self, *, lengths: Tensor, state: State | None = None, **feeds: Tensor) -> dict[str, Tensor]:
        """What the bundle answers, under the names of its outputs."""
        logits = {name: part.float() for name, part in self(lengths=lengths, state=state, **feeds).items()}
        found = {}
        if "steps" in logits and self.chain is not None:
            found["probabilities"] = self.chain.marginals(logits["steps"], lengths)
            found["path"] = self.chain.decode(logits["steps"], lengths)
        elif "steps" in logits:
            found["probabilities"] = torch.softmax(logits["steps"], -1)
        if "text" in logits:
            name = "text_probabilities" if "steps" in logits else "probabilities"
            found[name] = torch.softmax(logits["text"], -1)
            if self.merged is not None:
                shares = found[name] @ self.merged.T  # (B, M)
                found[name] = shares / shares.sum(1, keepdim=True)
            found["embedding"] = logits["embedding"]
        return found


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
        # Tied (Press and Wolf 2017): the output matrix is the embedding, between them a layer of the embedding's width.
        self.narrow = nn.Linear(self.stack.width, shape.embedding) if shape.tied else None
        self.head = nn.Linear(shape.embedding if shape.tied else self.stack.width, codec.table_rows)
        if shape.tied:
            self.head.weight = self.embedding.weight
        never = torch.zeros(codec.table_rows)
        never[[PADDING, UNKNOWN]] = -torch.inf  # no text holds them: they get no probability and are never drawn
        self.register_buffer("never", never, persistent=False)

    def table(self) -> Tensor:
        """The vector of every row: a character that training never saw is none in particular, the mean of all."""
        table = self.embedding.weight.clone()
        table[UNKNOWN] = table[UNKNOWN + 1 :].mean(dim=0)
        return table

    def read(self, *, characters: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `forward`, by the names of the codec's feeds."""
        logits: Tensor
        logits, after = self(characters, lengths, state)
        return logits, after

    def forward(self, characters: Tensor, lengths: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """characters (T, B) -> logits (T, B, V), and the state after the last step."""
        x = self.embedding(characters) if self.training else nn.functional.embedding(characters, self.table())
        y, after = self.stack(self.embedding_dropout(x), lengths, state)
        y = self.dropout(y)
        return self.head(y if self.narrow is None else self.narrow(y)) + self.never, after


Network = SequenceNetwork | LanguageModel


def make_network(
    shape: Architecture,
    codec: Codec,
    *,
    task: str,
    labels: Sequence[str] = (),
    text_labels: Sequence[str] = (),
    merge: Mapping[str, Sequence[str]] | None = None,
    auxiliary_labels: int = 0,
) -> Network:
    """An untrained network for a task of the bundle format, with labels as training tells them apart; `merge`: which
    of them each label to answer with stands for.
    """
    if task == "generate":
        assert isinstance(codec, CharactersCodec)
        return LanguageModel(shape, codec)
    steps = labels if task in ("tag", "joint") else ()
    whole = labels if task == "classify" else text_labels
    chain = LinearChain(len(steps), forbidden(steps)) if shape.crf and steps else None
    merged = None
    if merge:
        merged = torch.tensor([[float(label in parts) for label in whole] for parts in merge.values()])
    return SequenceNetwork(
        shape,
        codec,
        step_labels=len(steps),
        text_labels=len(whole),
        chain=chain,
        merged=merged,
        auxiliary_labels=auxiliary_labels,
    )


def standardise(network: Network, frames: Sequence[Any]) -> None:
    """Give a network of frames the mean and the deviation of the training data: arrays (T, F)."""
    assert isinstance(network, SequenceNetwork)
    assert isinstance(network.encoder, FrameEncoder)
    together = np.concatenate([np.asarray(one, np.float64) for one in frames])
    mean, deviation = together.mean(axis=0), together.std(axis=0)
    constant = deviation <= CONSTANT * np.abs(mean)  # what is left of one number by rounding is no deviation
    network.encoder.mean.copy_(torch.from_numpy(mean))
    network.encoder.deviation.copy_(torch.from_numpy(np.where(constant, 1.0, deviation)))
