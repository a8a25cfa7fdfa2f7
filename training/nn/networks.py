"""The networks: encoder, recurrent stack, pooling and heads. That of a translator is in translator.py.

Networks take the feeds of the codecs by name, as their ONNX exports do.
T steps, B batch, E embedding, H hidden, W stack output columns, V vocabulary, K step labels, L text labels, M merged
labels, P gaps. In a forecaster: T segments of S values that are read, M segments with N = M·S values that are
forecast, Q quantile levels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.codecs import Codec
from models.codecs.base import FIRST, PADDING, UNKNOWN
from models.codecs.characters import CharactersCodec
from models.codecs.frames import FramesCodec
from models.codecs.pieces import PiecesCodec
from models.codecs.series import SeriesCodec
from models.codecs.words import WordsCodec
from models.manifest import ForecastSpec
from training.nn.cells import CellInitialization, CellState
from training.nn.crf import LinearChainCRF, forbidden_transitions
from training.nn.encoders import Encoder, FrameEncoder, SymbolEncoder, WordEncoder
from training.nn.recurrent import RecurrentLayer, RecurrentStack, StackState
from training.nn.translator import EncoderDecoder
from training.options import Architecture, PoolingName

CONSTANT = 1e-6  # times the mean: a feature with a smaller deviation is constant
POSITION_DEVIATION = 0.1  # of the initial position vectors of a forecaster
FILLED_WORDS = 100  # that an exported filler can answer for a gap


class AttentionPooling(nn.Module):
    """A weighted mean over the steps, by softmax(query · tanh(W y + b)): Yang et al. 2016, equations 5 to 7."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.query = nn.Linear(hidden, 1, bias=False)

    def forward(self, y: Tensor, valid: Tensor) -> Tensor:
        """Return the mean (B, W) of y (T, B, W) over the steps where valid (T, B, 1) is True."""
        scores = self.query(torch.tanh(self.hidden(y))).float().masked_fill(~valid, -torch.inf)  # (T, B, 1)
        return (torch.softmax(scores, 0) * y.where(valid, 0.0)).sum(0)


class SequencePooling(nn.Module):
    """A sequence as one vector: the concatenation of the poolings that a recipe names, in its order.

    max and mean: over the steps (Collobert and Weston 2008; Iyyer et al. 2015). last: the final states of both
    directions (Sutskever et al. 2014). attention: AttentionPooling.
    """

    def __init__(self, shape: Architecture, stack: RecurrentStack) -> None:
        super().__init__()
        self.parts: tuple[PoolingName, ...] = shape.pooling
        self.attention = AttentionPooling(stack.width, shape.hidden) if "attention" in self.parts else None
        self.width = len(self.parts) * stack.width

    def forward(self, y: Tensor, lengths: Tensor, final: Tensor) -> Tensor:
        """Return (B, width) for y (T, B, W), lengths (B,) >= 1 and final (B, W) from RecurrentStack.final."""
        valid = (torch.arange(len(y), device=y.device)[:, None] < lengths[None, :])[:, :, None]  # (T, B, 1)
        pooled = []
        for part in self.parts:
            if part == "max":
                pooled.append(y.masked_fill(~valid, -torch.inf).amax(dim=0))
            elif part == "mean":
                pooled.append(y.where(valid, 0.0).sum(0) / lengths[:, None])
            elif part == "last":
                pooled.append(final)
            else:
                pooled.append(self.attention(y, valid))
        return torch.cat(pooled, dim=1)


class SequenceNetwork(nn.Module):
    """Labels for the steps of a sequence, for the whole sequence (text labels), or for both.

    `step_labels` K and `text_labels` L are numbers of labels; 0 leaves a head out. With `crf`, step labels are decoded
    jointly. `merged` (M, L) of ones and zeros sums text labels to the labels that are answered: labels in no row are
    learned but never answered. `auxiliary_labels` are the step labels of an auxiliary task, which is only learned.
    """

    def __init__(
        self,
        shape: Architecture,
        codec: Codec,
        *,
        step_labels: int,
        text_labels: int,
        crf: LinearChainCRF | None = None,
        merged: Tensor | None = None,
        auxiliary_labels: int = 0,
    ) -> None:
        super().__init__()
        self.encoder: Encoder
        if isinstance(codec, WordsCodec):
            self.encoder = WordEncoder(shape, codec)
        elif isinstance(codec, FramesCodec):
            self.encoder = FrameEncoder(shape, codec.spec.features)
        else:
            self.encoder = SymbolEncoder(shape, codec)
        self.stack = RecurrentStack(shape, self.encoder.width)
        self.dropout = nn.Dropout(shape.dropout)
        self.auxiliary = nn.Linear(self.stack.width, auxiliary_labels) if auxiliary_labels else None
        self.step_head = nn.Linear(self.stack.width, step_labels) if step_labels else None
        self.crf = crf
        self.register_buffer("merged", merged, persistent=False)
        self.pooling, self.text_head = None, None
        if text_labels:
            self.pooling = SequencePooling(shape, self.stack)
            self.text_head = nn.Linear(self.pooling.width, text_labels)
        self.register_load_state_dict_pre_hook(_rename_old_parameters)

    @property
    def streams(self) -> bool:
        """Whether the network can continue from a state: it labels steps, forwards only, without a CRF or positions."""
        steps_only = self.step_head is not None and self.text_head is None and self.crf is None
        forwards_only = all(layer.directions == 1 for layer in self.stack.layers)
        has_positions = isinstance(self.encoder, SymbolEncoder) and self.encoder.place is not None
        return steps_only and forwards_only and not has_positions

    @torch.no_grad()
    def add_to_score(self, label: int, nats: float) -> None:
        """Add to the score of a step label at every step, before the softmax or the CRF."""
        self.step_head.bias[label] += nats

    def read(self, *, lengths: Tensor, state: StackState | None = None, **feeds: Tensor) -> tuple[Tensor, StackState]:
        """Return the stack's output (T, B, W) and the state after step T, for the feeds of the codec's collate."""
        return self.stack(self.encoder(**feeds), lengths, state)

    def forward(self, *, lengths: Tensor, state: StackState | None = None, **feeds: Tensor) -> dict[str, Tensor]:
        """Return the logits of each head, for the feeds of the codec's collate.

        "steps" (T, B, K) and "text" (B, L) with its input "embedding" (B, pooling width). In training also "auxiliary"
        (T, B, auxiliary labels).
        """
        y, _ = self.read(lengths=lengths, state=state, **feeds)
        logits = {}
        if self.auxiliary is not None and self.training:
            logits["auxiliary"] = self.auxiliary(self.dropout(y))
        if self.step_head is not None:
            logits["steps"] = self.step_head(self.dropout(y))
        if self.text_head is not None:
            pooled = self.pooling(y, lengths, self.stack.final(y, lengths))
            logits["text"], logits["embedding"] = self.text_head(self.dropout(pooled)), pooled
        return logits

    @torch.no_grad()
    def answers(self, *, lengths: Tensor, state: StackState | None = None, **feeds: Tensor) -> dict[str, Tensor]:
        """Return what the exported bundle returns, under the names of its outputs."""
        logits = {name: part.float() for name, part in self(lengths=lengths, state=state, **feeds).items()}
        found = {}
        if "steps" in logits and self.crf is not None:
            found["probabilities"] = self.crf.marginals(logits["steps"], lengths)
            found["path"] = self.crf.decode(logits["steps"], lengths)
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


def _rename_old_parameters(module: nn.Module, weights: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load weights of runs from before `chain` was renamed to `crf`."""
    for name in [name for name in weights if name.startswith(f"{prefix}chain.")]:
        weights[f"{prefix}crf.{name.removeprefix(f'{prefix}chain.')}"] = weights.pop(name)


class LanguageModel(nn.Module):
    """The distribution of the next character of a text, with a state that carries over."""

    def __init__(self, shape: Architecture, codec: CharactersCodec) -> None:
        super().__init__()
        if shape.bidirectional:
            raise ValueError("bidirectional = true in a language model: set it to false in the recipe")
        self.embedding = nn.Embedding(codec.table_rows, shape.embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.embedding_dropout = nn.Dropout(shape.embedding_dropout)
        self.stack = RecurrentStack(shape, shape.embedding)
        self.dropout = nn.Dropout(shape.dropout)
        # Tied weights (Press and Wolf 2017): `narrow` projects to the embedding, which is also the output matrix.
        self.narrow = nn.Linear(self.stack.width, shape.embedding) if shape.tied else None
        self.head = nn.Linear(shape.embedding if shape.tied else self.stack.width, codec.table_rows)
        if shape.tied:
            self.head.weight = self.embedding.weight
        never = torch.zeros(codec.table_rows)
        never[[PADDING, UNKNOWN]] = -torch.inf  # not characters, so they must never be sampled
        self.register_buffer("never", never, persistent=False)

    def table(self) -> Tensor:
        """Return the vector (V, embedding) of every table row. An unknown character is the mean of all others."""
        table = self.embedding.weight.clone()
        table[UNKNOWN] = table[UNKNOWN + 1 :].mean(dim=0)
        return table

    def forward(
        self, characters: Tensor, lengths: Tensor, state: StackState | None = None
    ) -> tuple[Tensor, StackState]:
        """Return logits (T, B, V) and the state after step T, for characters (T, B) and lengths (B,)."""
        x = self.embedding(characters) if self.training else nn.functional.embedding(characters, self.table())
        y, last = self.stack(self.embedding_dropout(x), lengths, state)
        y = self.dropout(y)
        return self.head(y if self.narrow is None else self.narrow(y)) + self.never, last

    @torch.no_grad()
    def answers(self, characters: Tensor, lengths: Tensor, state: StackState | None = None) -> dict[str, Tensor]:
        """Return what the exported bundle returns, under the names of its outputs."""
        logits, _ = self(characters, lengths, state)
        return {"log_probabilities": torch.log_softmax(logits, -1)}


class Forecaster(nn.Module):
    """The network of a forecaster: the mean and the quantiles of a normalized series, for all N values at once.

    As in SegRNN (Lin et al. 2023, arXiv 2308.11200), the layer reads the embedded segments. Each segment of the
    forecast is then one more step of the same layer, from the final state and a learned position vector. So an error of
    one segment does not reach the next.
    """

    def __init__(self, shape: Architecture, codec: SeriesCodec, spec: ForecastSpec) -> None:
        super().__init__()
        segment, positions = codec.spec.segment, spec.horizon // codec.spec.segment
        if spec.horizon % segment:
            raise ValueError(f"forecast.horizon is {spec.horizon}; use a multiple of codec.segment, which is {segment}")
        self.segment, self.horizon, self.levels = segment, spec.horizon, len(spec.quantile_levels)
        self.embedding = nn.Linear(2 * segment, shape.embedding)
        initial = CellInitialization(form=shape.initial, forget_bias=shape.forget_bias)
        self.layer = RecurrentLayer(
            shape.cell,
            shape.embedding,
            shape.hidden,
            bidirectional=False,
            initial=initial,
            weight_dropout=shape.weight_dropout,
        )
        self.positions = nn.Parameter(torch.randn(positions, shape.embedding) * POSITION_DEVIATION)  # (M, E)
        self.dropout = nn.Dropout(shape.dropout)
        self.head = nn.Linear(shape.hidden, segment * (1 + self.levels))

    def forward(self, segments: Tensor, lengths: Tensor) -> Tensor:
        """Return (B, N, 1 + Q), mean before quantiles, for segments (T, B, 2·S) and lengths (B,) >= 1."""
        embedded = torch.relu(self.embedding(segments))  # (T, B, E)
        state = self._final_state(embedded, lengths)
        batch, count = segments.shape[1], len(self.positions)
        steps = self.positions.repeat_interleave(batch, 0)[None]  # (1, M·B, E)
        repeated = tuple(part.repeat(count, 1) for part in state)  # (M·B, H)
        y, _ = self.layer(steps, torch.ones_like(lengths).repeat(count), repeated)
        output = self.head(self.dropout(y[0])).view(count, batch, self.segment, 1 + self.levels)
        return output.transpose(0, 1).reshape(batch, self.horizon, 1 + self.levels)

    def _final_state(self, x: Tensor, lengths: Tensor) -> CellState:
        """Return the state (B, H) after the last step of each column. Training batches have one length."""
        found: list[Tensor] = []
        for length in lengths.unique().tolist():
            columns = lengths == length
            _, state = self.layer(x[:length, columns], lengths[columns])
            found = found or [part.new_zeros(len(lengths), part.shape[1]) for part in state]
            found = [whole.masked_scatter(columns[:, None], part) for whole, part in zip(found, state, strict=True)]
        return tuple(found)

    @torch.no_grad()
    def answers(self, segments: Tensor, lengths: Tensor, state: None = None) -> dict[str, Tensor]:
        """Return what the exported bundle returns, under the names of its outputs."""
        del state
        output = self(segments, lengths).float()
        return {"mean": output[:, :, 0], "quantiles": output[:, :, 1:]}


class Filler(nn.Module):
    """The network of the task "fill", context2vec (Melamud et al. 2016): a word from what is left and right of it.

    One bidirectional layer reads the words. A gap sees the forward state before it and the backward state after it, so
    that the word at the gap itself has no influence. Two dense layers join both. The output matrix is the embedding
    (Press and Wolf 2017). A tanh, not a ReLU as published, bounds what they compute, which int8 needs.
    """

    def __init__(self, shape: Architecture, codec: WordsCodec) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codec.table_rows, shape.embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.word_dropout, self.embedding_dropout = shape.word_dropout, nn.Dropout(shape.embedding_dropout)
        self.stack = RecurrentStack(shape, shape.embedding)
        self.dropout = nn.Dropout(shape.dropout)
        self.join = nn.Linear(self.stack.width, shape.hidden)
        self.narrow = nn.Linear(shape.hidden, shape.embedding)
        self.bias = nn.Parameter(torch.zeros(codec.table_rows))
        never = torch.zeros(codec.table_rows)
        never[[PADDING, UNKNOWN]] = -torch.inf  # not words, so they must never be an answer
        self.register_buffer("never", never, persistent=False)
        self.best = min(FILLED_WORDS, codec.table_rows - FIRST)

    def contexts(self, words: Tensor, lengths: Tensor, gap_steps: Tensor, gap_inputs: Tensor) -> Tensor:
        """Return a vector (P, E) for each gap: the step `gap_steps` (P,) of the column `gap_inputs` (P,).

        words (T, B) are table rows, lengths (B,).
        """
        if self.training and self.word_dropout:
            dropped = torch.rand(words.shape, device=words.device) < self.word_dropout
            words = words.masked_fill(dropped & (words != PADDING), UNKNOWN)
        y, _ = self.stack(self.embedding_dropout(self.embedding(words)), lengths)  # (T, B, 2·H)
        forwards, backwards = y.chunk(2, dim=2)
        edge = torch.zeros_like(forwards[:1])
        left = torch.cat([edge, forwards])[gap_steps, gap_inputs]  # (P, H)
        right = torch.cat([backwards, edge])[gap_steps + 1, gap_inputs]
        right = right.where((gap_steps + 1 < lengths[gap_inputs])[:, None], 0.0)
        joined = torch.tanh(self.join(self.dropout(torch.cat([left, right], dim=1))))
        return torch.tanh(self.narrow(self.dropout(joined)))

    def forward(self, words: Tensor, lengths: Tensor, gap_steps: Tensor, gap_inputs: Tensor) -> Tensor:
        """Return the logits (P, V) of every word at each gap."""
        vectors = self.contexts(words, lengths, gap_steps, gap_inputs)
        return nn.functional.linear(vectors, self.embedding.weight, self.bias) + self.never

    @torch.no_grad()
    def answers(self, *, targets: Tensor, state: None = None, **feeds: Tensor) -> dict[str, Tensor]:
        """Return what the exported bundle returns, under the names of its outputs. targets (P, X) are table rows."""
        del state
        probabilities = torch.softmax(self(**feeds).float(), dim=1)
        scores, words = probabilities.topk(self.best)
        return {"best_scores": scores, "best_words": words, "target_scores": probabilities.gather(1, targets)}


Network = SequenceNetwork | LanguageModel | Forecaster | EncoderDecoder | Filler


def make_network(
    shape: Architecture,
    codec: Codec,
    *,
    task: str,
    labels: Sequence[str] = (),
    text_labels: Sequence[str] = (),
    merge: Mapping[str, Sequence[str]] | None = None,
    auxiliary_labels: int = 0,
    forecast: ForecastSpec | None = None,
    source: Codec | None = None,
) -> Network:
    """Return an untrained network for a task.

    `labels` and `text_labels` are the labels in the training data. `merge` maps each answered label to those it stands
    for. `source` is the codec of what a translator reads; by default `codec`.
    """
    if isinstance(codec, PiecesCodec):
        return EncoderDecoder(shape, source or codec, codec)
    if task == "generate":
        return LanguageModel(shape, codec)
    if forecast is not None:
        return Forecaster(shape, codec, forecast)
    if task == "fill":
        return Filler(shape, codec)
    step_labels = labels if task in ("tag", "joint") else ()
    whole = labels if task == "classify" else text_labels
    crf = LinearChainCRF(len(step_labels), forbidden_transitions(step_labels)) if shape.crf and step_labels else None
    merged = None
    if merge:
        merged = torch.tensor([[float(label in parts) for label in whole] for parts in merge.values()])  # (M, L)
    return SequenceNetwork(
        shape,
        codec,
        step_labels=len(step_labels),
        text_labels=len(whole),
        crf=crf,
        merged=merged,
        auxiliary_labels=auxiliary_labels,
    )


def fit_standardization(encoder: FrameEncoder, series: Sequence[Any]) -> None:
    """Set the mean and deviation of a frame encoder from the training data, arrays (T, F)."""
    frames = np.concatenate([np.asarray(one, np.float64) for one in series])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    constant = deviation <= CONSTANT * np.abs(mean)  # only rounding errors: do not divide by them
    encoder.mean.copy_(torch.from_numpy(mean))
    encoder.deviation.copy_(torch.from_numpy(np.where(constant, 1.0, deviation)))
