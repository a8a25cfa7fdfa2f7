"""An encoder-decoder with attention (Bahdanau et al. 2015) and the conditional GRU of Nematus (Sennrich et al. 2017).

S source steps, T target steps, B batch, E embedding, H units of the decoder, W width of a memory value, A attention
units, V pieces, F features of a frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.codecs import Codec
from models.codecs.frames import FramesCodec
from models.codecs.images import ImageCodec
from models.codecs.pieces import END, PiecesCodec
from training.nn.encoders import FrameEncoder, ImageEncoder
from training.nn.recurrent import RecurrentStack
from training.options import Architecture

EMBEDDING_DEVIATION = 0.1  # of the initial vectors


@dataclass(frozen=True, kw_only=True)
class AttentionMemory:
    """What the reader keeps of a source for the decoder."""

    keys: Tensor  # (S, B, A)
    values: Tensor  # (S, B, W)
    valid: Tensor  # (S, B, 1)

    def columns(self, owners: Tensor) -> "AttentionMemory":
        """Return the memory of each row, for rows that read these columns."""
        return AttentionMemory(keys=self.keys[:, owners], values=self.values[:, owners], valid=self.valid[:, owners])


class ConditionalGRU(nn.Module):
    """Two GRU transitions with attention between them: the first reads the last piece, the second the context.

    The memory is attended to from the state between the two. Without attention units, the context is the mean of the
    memory (Cho et al. 2014).
    """

    def __init__(self, inputs: int, hidden: int, values: int, attention: int) -> None:
        super().__init__()
        self.read_piece, self.update_first = nn.Linear(inputs, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        self.read_context, self.update_second = nn.Linear(values, 3 * hidden), nn.Linear(hidden, 3 * hidden)
        self.query = nn.Linear(hidden, attention, bias=False) if attention else None
        self.score = nn.Parameter(torch.empty(attention)) if attention else None  # (A,)
        for layer in (self.read_piece, self.read_context, self.update_first, self.update_second):
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for layer in (self.read_piece, self.read_context):
                nn.init.xavier_uniform_(layer.weight)
            for layer in (self.update_first, self.update_second):
                for block in layer.weight.split(hidden):
                    nn.init.orthogonal_(block)
            if attention:
                nn.init.uniform_(self.score, -(attention**-0.5), attention**-0.5)

    def step(self, read: Tensor, h: Tensor, memory: AttentionMemory) -> tuple[Tensor, Tensor, Tensor]:
        """Return the state (B, H), the context (B, W) and the attention (S, B), after `read` = read_piece(x) (B, 3·H).

        States and contexts are float32, also under autocast.
        """
        between = gated(read, self.update_first(h), h)
        weights = self.attend(between, memory)  # (S, B)
        context = (weights[:, :, None] * memory.values).sum(0)  # (B, W)
        return gated(self.read_context(context), self.update_second(between), between), context, weights

    def attend(self, h: Tensor, memory: AttentionMemory) -> Tensor:
        """Return the weights (S, B) of the memory: softmax of score · tanh(keys + query(h)), Bahdanau et al. 2015."""
        if self.query is None:
            valid = memory.valid[:, :, 0].float()
            return valid / valid.sum(0)
        hidden = torch.tanh(memory.keys + self.query(h).float())  # (S, B, A)
        scores = (hidden * self.score).sum(2)
        return torch.softmax(scores.masked_fill(~memory.valid[:, :, 0], -torch.inf), 0)


def _encoder(shape: Architecture, source: Codec) -> FrameEncoder | ImageEncoder | None:
    """Return the encoder of frames or pictures. Pieces need none."""
    if isinstance(source, ImageCodec):
        return ImageEncoder(shape, source.spec)
    return FrameEncoder(shape, source.spec.features) if isinstance(source, FramesCodec) else None


def gated(read: Tensor, update: Tensor, h: Tensor) -> Tensor:
    """Return the next state (B, H) of a GRU in PyTorch's form, from the products (B, 3·H) of its input and state."""
    rz, n = read.float().split((2 * h.shape[1], h.shape[1]), 1)
    rz_h, n_h = update.float().split((2 * h.shape[1], h.shape[1]), 1)
    r, z = torch.sigmoid(rz + rz_h).chunk(2, 1)
    return torch.lerp(torch.tanh(n + r * n_h), h, z)  # n + z ⊙ (h - n)


class EncoderDecoder(nn.Module):
    """Writes pieces, one by one, from what it has read: pieces of another language, frames, or a picture.

    One embedding serves what is read, what is written, and as output matrix (Press and Wolf 2017).
    """

    def __init__(self, shape: Architecture, source: Codec, codec: PiecesCodec) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(codec.table_rows, shape.embedding)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_DEVIATION)
        self.encoder = _encoder(shape, source)
        self.stack = RecurrentStack(shape, shape.embedding) if self.encoder is None else None
        self.frames = None if self.encoder is None else nn.Linear(self.encoder.width, 2 * shape.hidden)
        self.values = 2 * shape.hidden if self.stack is None else self.stack.width
        self.keys = nn.Linear(self.values, shape.attention) if shape.attention else None
        self.initial = nn.Linear(self.values, shape.decoder_hidden)
        self.cell = ConditionalGRU(shape.embedding, shape.decoder_hidden, self.values, shape.attention)
        self.deep = nn.Linear(shape.decoder_hidden + shape.embedding + self.values, shape.embedding)
        self.bias = nn.Parameter(torch.zeros(codec.table_rows))  # (V,)
        self.embedding_dropout, self.dropout = nn.Dropout(shape.embedding_dropout), nn.Dropout(shape.dropout)

    def read(self, lengths: Tensor, **feeds: Tensor) -> tuple[AttentionMemory, Tensor]:
        """Return the memory and the first state (B, H), for the feeds of the source codec's collate."""
        if self.stack is not None:
            values, _ = self.stack(self.embed(feeds["pieces"]), lengths)
        else:
            (rows,) = feeds.values()
            values = torch.tanh(self.frames(self.encoder(rows)))
        values = values.float()
        valid = torch.arange(len(values), device=values.device)[:, None] < lengths  # (S, B)
        mean = values.where(valid[:, :, None], 0.0).sum(0) / lengths[:, None]
        first = torch.tanh(self.initial(mean)).float()
        values = self.dropout(values)
        keys = values[:, :, :0] if self.keys is None else self.keys(values).float()
        return AttentionMemory(keys=keys, values=values, valid=valid[:, :, None]), first

    def embed(self, rows: Tensor) -> Tensor:
        """Return the vectors (T, B, E) of rows (T, B). In training, whole vectors and single numbers are dropped."""
        x = self.embedding(rows)
        if self.training and self.shape.word_dropout:
            x = x * F.dropout(x.new_ones(*rows.shape, 1), self.shape.word_dropout)
        return self.embedding_dropout(x)

    def forward(self, written: Tensor, lengths: Tensor, **feeds: Tensor) -> Tensor:
        """Return what `logits` takes (T, B, E), after each of the rows `written` (T, B), which start with END."""
        memory, h = self.read(lengths, **feeds)
        x = self.embed(written)
        states, contexts = [], []
        for read in self.cell.read_piece(x).unbind():
            h, context, _ = self.cell.step(read, h, memory)
            states.append(h)
            contexts.append(context)
        return self.output(torch.stack(states), x, torch.stack(contexts))

    def output(self, h: Tensor, x: Tensor, context: Tensor) -> Tensor:
        """Return the deep output (…, E) of Pascanu et al. 2014, from state, last piece and context."""
        return self.dropout(torch.tanh(self.deep(torch.cat([h, x, context], -1))))

    def logits(self, output: Tensor) -> Tensor:
        """Return the scores (…, V) of the next piece."""
        return F.linear(output, self.embedding.weight, self.bias).float()

    def step(self, rows: Tensor, h: Tensor, memory: AttentionMemory) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-probabilities (B, V), the state (B, H) and the attention (S, B) after rows (B,)."""
        x = self.embed(rows[None])[0]
        h, context, weights = self.cell.step(self.cell.read_piece(x), h, memory)
        return torch.log_softmax(self.logits(self.output(h, x, context)), -1), h, weights

    @torch.no_grad()
    def greedy(self, most: int, lengths: Tensor, **feeds: Tensor) -> Tensor:
        """Return the most probable pieces (T, B), one by one: at most `most`, with END after the end."""
        memory, h = self.read(lengths, **feeds)
        rows = torch.full_like(lengths, END)
        ended = torch.zeros_like(rows, dtype=torch.bool)
        found = []
        while len(found) < most and not ended.all():
            scores, h, _ = self.step(rows, h, memory)
            rows = scores.argmax(1).masked_fill(ended, END)
            ended |= rows == END
            found.append(rows)
        return torch.stack(found)
