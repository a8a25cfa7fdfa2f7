"""context2vec (Melamud et al. 2016): the word at a gap, from what is left and what is right of it.

T steps, B batch, E embedding, H hidden, V table rows, P gaps.
"""

import torch
from torch import Tensor, nn

from models.codecs.base import FIRST, PADDING, UNKNOWN
from models.codecs.words import WordsCodec
from training.nn.recurrent import RecurrentStack
from training.options import Architecture

MOST_WORDS = 100  # that an exported filler can answer for a gap


class Filler(nn.Module):
    """The network of the task "fill".

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
        self.best = min(MOST_WORDS, codec.table_rows - FIRST)

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
