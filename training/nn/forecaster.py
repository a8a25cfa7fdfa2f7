"""SegRNN (Lin et al. 2023, arXiv 2308.11200): a recurrent layer over segments of a series, decoded in parallel.

T segments, B batch, S values of a segment, M segments and N = M·S values of the longest forecast, E embedding,
H hidden, Q quantile levels.
"""

import torch
from torch import Tensor, nn

from models.codecs.series import SeriesCodec
from models.manifest import ForecastSpec
from training.nn.cells import CellInitialization, CellState
from training.nn.recurrent import RecurrentLayer
from training.options import Architecture

POSITION_DEVIATION = 0.1  # of the initial position vectors


class Forecaster(nn.Module):
    """The network of a forecaster: the mean and the quantiles of a normalized series, for all N values at once.

    The layer reads the embedded segments. Each segment of the forecast is then one more step of the same layer, from
    the final state and a learned position vector. So an error of one segment does not reach the next.
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
