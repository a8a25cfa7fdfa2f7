"""Layers and stacks: ragged batches, states, skip connections and dropout.

T steps, B batch, I inputs, H hidden, D directions, W columns of a stack's output.
"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training.nn.cells import GATES, CellInitialization
from training.nn.recurrent import RecurrentLayer, RecurrentStack, VariationalDropout, reverse
from training.options import Architecture, CellName, SkipName

I, H = 4, 6  # noqa: E741
LENGTHS = torch.tensor([5, 1, 9, 3])
KINDS: tuple[CellName, ...] = tuple(GATES)
MADE = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def packed(layer: RecurrentLayer, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Run the layer as a PyTorch module on packed sequences: outputs (T, B, D·H), final hidden states (D, B, H)."""
    twin = MADE[layer.cell](x.shape[2], layer.hidden, bidirectional=layer.backwards is not None)
    weights = dict(layer.forwards.named_parameters())
    if layer.backwards is not None:
        weights |= {f"{name}_reverse": value for name, value in layer.backwards.named_parameters()}
    twin.load_state_dict(weights)
    y, final = twin(nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
    return nn.utils.rnn.pad_packed_sequence(y)[0], final[0] if layer.cell == "lstm" else final


def a_stack(inputs: int = I, **choices: Any) -> RecurrentStack:
    torch.manual_seed(0)
    shape = {"layers": 2, "hidden": H, "bidirectional": True, "dropout": 0.5, "initial": "uniform"}
    return RecurrentStack(Architecture(**(shape | choices)), inputs)


@pytest.mark.parametrize("cell", MADE)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer_equals_packed_pytorch_on_ragged_batches(cell: CellName, bidirectional: bool) -> None:
    torch.manual_seed(0)
    layer = RecurrentLayer(cell, I, H, bidirectional=bidirectional)
    x = torch.randn(9, 4, I)
    with torch.no_grad():
        y, _ = layer(x, LENGTHS)
        expected, final = packed(layer, x, LENGTHS)
        for column, length in enumerate(LENGTHS.tolist()):
            torch.testing.assert_close(y[:length, column], expected[:length, column], atol=1e-6, rtol=0)
        torch.testing.assert_close(layer.final(y, LENGTHS), torch.cat(list(final), dim=1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("cell", KINDS)
def test_column_of_a_ragged_batch_equals_the_column_alone(cell: CellName) -> None:
    torch.manual_seed(0)
    layer = RecurrentLayer(cell, I, H, bidirectional=True).double()
    x = torch.randn(9, 4, I, dtype=torch.float64)
    y, _ = layer(x, LENGTHS)
    for column, length in enumerate(LENGTHS):
        alone, _ = layer(x[:length, column, None], length[None])
        torch.testing.assert_close(y[:length, column, None], alone, atol=1e-12, rtol=0)


def test_empty_column_does_not_change_other_columns() -> None:
    layer, lengths = RecurrentLayer("lstm", I, H, bidirectional=True), torch.tensor([3, 0])
    x = torch.randn(3, 2, I)
    last = layer.final(layer(x, lengths)[0], lengths)
    alone = layer.final(layer(x[:, :1], lengths[:1])[0], lengths[:1])
    torch.testing.assert_close(last[:1], alone, atol=1e-6, rtol=0)


def test_reverse_stays_within_lengths_and_is_its_own_inverse() -> None:
    x = torch.arange(9.0)[:, None, None].expand(9, 4, 2).clone()
    turned = reverse(x, LENGTHS)
    assert turned[:, 0, 0].tolist() == [4, 3, 2, 1, 0, 5, 6, 7, 8]
    assert torch.equal(reverse(turned, LENGTHS), x)


@pytest.mark.parametrize("cell", KINDS)
@pytest.mark.parametrize("skip", ["none", "residual", "highway", "dense"])
def test_two_chunks_with_a_carried_state_equal_one_pass(cell: CellName, skip: SkipName) -> None:
    stack = a_stack(cell=cell, skip=skip, bidirectional=False).double().eval()
    x = torch.randn(8, 2, I, dtype=torch.float64)
    y, after = stack(x, torch.tensor([8, 8]))
    first, between = stack(x[:5], torch.tensor([5, 5]))
    second, last = stack(x[5:], torch.tensor([3, 3]), between)
    torch.testing.assert_close(torch.cat([first, second]), y, atol=1e-12, rtol=0)
    torch.testing.assert_close(last, after, atol=1e-12, rtol=0)
    assert [len(rows) for rows in after] == [len(layer.forwards.parts) for layer in stack.layers]


def through(stack: RecurrentStack, index: int, x: Tensor) -> Tensor:
    return stack.layers[index](x, LENGTHS)[0]


def test_residual_adds_the_input_of_layers_of_equal_width() -> None:
    stack, x = a_stack(skip="residual").eval(), torch.randn(9, 4, I)
    first = through(stack, 0, x)
    assert stack.skipped == [False, True]
    assert torch.equal(stack(x, LENGTHS)[0], first + through(stack, 1, first))
    stack, x = a_stack(2 * H, skip="residual", layers=1).eval(), torch.randn(9, 4, 2 * H)
    assert torch.equal(stack(x, LENGTHS)[0], x + through(stack, 0, x))


def test_highway_mixes_layer_and_input_and_starts_near_the_input() -> None:
    stack, x = a_stack(skip="highway").eval(), torch.randn(9, 4, I)
    first = through(stack, 0, x)
    none, gate = stack.highways
    assert none is None
    t = torch.sigmoid(first @ gate.weight.T + gate.bias)
    expected = t * through(stack, 1, first) + (1 - t) * first
    torch.testing.assert_close(stack(x, LENGTHS)[0], expected, atol=1e-6, rtol=0)
    assert set(gate.bias.tolist()) == {-1.0}


def test_dense_concatenates_input_and_all_outputs() -> None:
    stack, x = a_stack(skip="dense", layers=3).eval(), torch.randn(9, 4, I)
    first = through(stack, 0, x)
    second = through(stack, 1, torch.cat([x, first], dim=2))
    third = through(stack, 2, torch.cat([x, first, second], dim=2))
    y, _ = stack(x, LENGTHS)
    assert torch.equal(y, torch.cat([first, second, third], dim=2))
    assert y.shape[2] == stack.width == 3 * 2 * H


def test_stack_without_skip_connections_is_a_chain_of_layers() -> None:
    stack, x = a_stack().eval(), torch.randn(9, 4, I)
    assert torch.equal(stack(x, LENGTHS)[0], through(stack, 1, through(stack, 0, x)))
    assert stack.width == 2 * H


@pytest.mark.parametrize("skip", ["none", "residual", "highway", "dense"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_final_takes_each_direction_at_its_end(skip: SkipName, bidirectional: bool) -> None:
    stack = a_stack(skip=skip, bidirectional=bidirectional)
    directions = [False] * H + ([True] * H if bidirectional else [])
    assert stack.backward_columns.tolist() == directions * (2 if skip == "dense" else 1)
    y = torch.randn(9, 4, stack.width)
    final = stack.final(y, LENGTHS)
    for column, length in enumerate(LENGTHS.tolist()):
        for place, backward in enumerate(stack.backward_columns):
            assert final[column, place] == y[0 if backward else length - 1, column, place]


def what_the_second_layer_reads(stack: RecurrentStack, x: Tensor) -> Tensor:
    """Return the factors of the first layer's outputs: 0 where dropped, 2 where kept."""
    read: list[Tensor] = []
    hook = stack.layers[1].register_forward_pre_hook(lambda _, given: read.append(given[0]))
    stack(x, LENGTHS)
    hook.remove()
    return read[0] / torch.cat([x, through(stack, 0, x)], dim=2)[:, :, -read[0].shape[2] :]


def test_dropout_applies_between_layers_in_training() -> None:
    stack, x = a_stack(), torch.randn(9, 4, I)
    ratio = what_the_second_layer_reads(stack, x)  # the output of the first layer alone is its divisor
    assert set(ratio.round(decimals=4).unique().tolist()) == {0.0, 2.0}
    assert set(what_the_second_layer_reads(stack.eval(), x).unique().tolist()) == {1.0}


def test_dense_drops_outputs_but_not_the_input() -> None:
    ratio = what_the_second_layer_reads(a_stack(skip="dense"), torch.randn(9, 4, I)).round(decimals=4)
    assert set(ratio[:, :, :I].unique().tolist()) == {1.0}
    assert set(ratio[:, :, I:].unique().tolist()) == {0.0, 2.0}


def test_skip_connection_is_not_dropped() -> None:
    stack, x = a_stack(skip="residual"), torch.randn(9, 4, I)
    for parameter in stack.layers[1].parameters():
        nn.init.zeros_(parameter)  # the layer gives zeros
    assert torch.equal(stack(x, LENGTHS)[0], through(stack, 0, x))


def test_variational_mask_is_shared_by_steps_and_sampled_every_pass() -> None:
    torch.manual_seed(0)
    dropout, ones = VariationalDropout(0.5), torch.ones(9, 4, 50)
    first, second = dropout(ones), dropout(ones)
    assert all(torch.equal(first[0], step) for step in first)
    assert not torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(ones), ones)


@pytest.mark.parametrize("variational", [False, True])
def test_variational_option_selects_the_dropout(variational: bool) -> None:
    ratio = what_the_second_layer_reads(a_stack(variational=variational), torch.randn(9, 4, I)).round(decimals=4)
    assert all(torch.equal(ratio[0], step) for step in ratio) == variational


def test_every_cell_gets_the_options_of_the_recipe() -> None:
    stack = a_stack(initial="identity", forget_bias=2.5, weight_dropout=0.25)
    cells = [cell for layer in stack.layers for cell in (layer.forwards, layer.backwards)]
    assert len(cells) == 4
    for cell in cells:
        assert cell.weight_dropout == 0.25
        assert torch.equal(cell.weight_hh_l0[:H], torch.eye(H))
        assert set(cell.bias_ih_l0[H : 2 * H].tolist()) == {2.5}


def test_directions_start_from_different_weights() -> None:
    layer = RecurrentLayer("gru", I, H, bidirectional=True, initial=CellInitialization(form="uniform"))
    assert not torch.equal(layer.forwards.weight_hh_l0, layer.backwards.weight_hh_l0)


def test_state_dict_uses_pytorch_parameter_names() -> None:
    of_cell = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    names = [f"layers.0.{side}.{name}" for side in ("forwards", "backwards") for name in of_cell]
    assert list(a_stack(layers=1).state_dict()) == names
