"""The linear chain against the enumeration of all paths, in float64."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

from training.nn.crf import LinearChainCRF, forbidden_transitions, is_valid_iob2, may_follow

IOB2 = ("O", "B-per", "I-per", "B-loc", "I-loc")
LENGTHS = torch.tensor([5, 1, 3, 2])
TAGS = torch.tensor([[0, 1, 1, 0], [1, 0, 2, 1], [2, 0, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])  # IOB2


def make_crf(labels: int, mask: Tensor | None = None, scale: float = 1.0, seed: int = 0) -> LinearChainCRF:
    made = LinearChainCRF(labels, mask).double()
    random = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=random, dtype=torch.float64)
    return made.requires_grad_(False)


def emissions(steps: int, batch: int, labels: int, scale: float = 1.0, seed: int = 1) -> Tensor:
    return scale * torch.randn(steps, batch, labels, generator=torch.Generator().manual_seed(seed)).double()


def score(made: LinearChainCRF, emission: Tensor, path: tuple[int, ...]) -> float:
    """Return the score of a path by its definition, for emissions (L, K)."""
    if made.forbidden[-1, path[0]] or any(made.forbidden[pair] for pair in itertools.pairwise(path)):
        return -np.inf
    steps = sum(float(emission[step, label]) for step, label in enumerate(path))
    moves = sum(float(made.transitions[pair]) for pair in itertools.pairwise(path))
    return steps + moves + float(made.first[path[0]]) + float(made.last[path[-1]])


def enumerate_paths(made: LinearChainCRF, emission: Tensor) -> tuple[float, Any, tuple[int, ...]]:
    """Return log Z, the marginals (L, K) and the best path, by enumeration."""
    steps, labels = emission.shape
    paths = list(itertools.product(range(labels), repeat=steps))
    scores = np.array([score(made, emission, path) for path in paths])
    log_partition = np.logaddexp.reduce(scores)
    marginals = np.zeros((steps, labels))
    for path, probability in zip(paths, np.exp(scores - log_partition), strict=True):
        marginals[np.arange(steps), path] += probability
    return log_partition, marginals, paths[int(scores.argmax())]


CASES = [
    (make_crf(3), 1.0),
    (make_crf(5, forbidden_transitions(IOB2)), 1.0),
    (make_crf(5, forbidden_transitions(IOB2), scale=3.0), 20.0),
]


@pytest.mark.parametrize(("made", "scale"), CASES)
def test_loss_equals_enumeration(made: LinearChainCRF, scale: float) -> None:
    given = emissions(5, 4, len(made.first), scale)
    expected = 0.0
    for column, length in enumerate(LENGTHS.tolist()):
        emission = given[:length, column]
        gold = score(made, emission, tuple(TAGS[:length, column].tolist()))
        expected += enumerate_paths(made, emission)[0] - gold
    assert float(made.loss(given, TAGS, LENGTHS)) == pytest.approx(expected / 11, abs=1e-9)


@pytest.mark.parametrize(("made", "scale"), CASES)
def test_marginals_and_best_paths_equal_enumeration(made: LinearChainCRF, scale: float) -> None:
    given = emissions(5, 4, len(made.first), scale)
    marginals, paths = made.marginals(given, LENGTHS), made.decode(given, LENGTHS)
    for column, length in enumerate(LENGTHS.tolist()):
        _, expected, best = enumerate_paths(made, given[:length, column])
        assert np.abs(marginals[:length, column].numpy() - expected).max() < 1e-9
        assert paths[:length, column].tolist() == list(best)


def test_loss_gradient_equals_finite_differences() -> None:
    made = make_crf(3, forbidden_transitions(IOB2[:3])).requires_grad_()
    names, parameters = zip(*made.named_parameters(), strict=True)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.crf = made

        def forward(self, given: Tensor) -> Tensor:
            return made.loss(given, TAGS, LENGTHS)

    def loss(given: Tensor, *values: Tensor) -> Tensor:
        named = {f"crf.{name}": value for name, value in zip(names, values, strict=True)}
        return functional_call(Loss(), named, (given,))

    assert gradcheck(loss, (emissions(5, 4, 3).requires_grad_(), *parameters), atol=1e-7)


def test_padding_has_no_loss_and_no_gradient() -> None:
    made, given = make_crf(3), emissions(3, 1, 3)
    lengths, tags = torch.tensor([3]), torch.tensor([[0], [2], [1]])
    padded = torch.cat([given, torch.full((2, 1, 3), 1e4, dtype=torch.float64)]).requires_grad_()
    loss = made.loss(padded, torch.cat([tags, torch.full((2, 1), -100)]), lengths)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(made.loss(given, tags, lengths)), abs=1e-12)
    assert padded.grad is not None
    assert padded.grad[:3].abs().min() > 0
    assert not padded.grad[3:].any()


def test_forbidden_transition_is_never_decoded_and_has_probability_0() -> None:
    made = LinearChainCRF(5, forbidden_transitions(IOB2))
    given = torch.randn(30, 50, 5, generator=torch.Generator().manual_seed(2))
    given[:, :, 2] += 1e4  # I-per everywhere, were it allowed
    lengths = torch.full((50,), 30)
    paths = made.decode(given, lengths).T.tolist()
    assert is_valid_iob2([[IOB2[label] for label in path] for path in paths])
    assert not made.marginals(given, lengths)[0, :, [2, 4]].any()


def test_loss_of_forbidden_tags_is_infinite() -> None:
    loss = make_crf(5, forbidden_transitions(IOB2)).loss(
        emissions(2, 1, 5), torch.tensor([[0], [2]]), torch.tensor([2])
    )
    assert torch.isposinf(loss)


def test_forbidden_transition_overrules_hundreds_of_nats() -> None:
    """Emissions prefer O, then I-per, which only B-per allows. In float32 the weight of B-per would be zero."""
    made, given = (
        LinearChainCRF(3, forbidden_transitions(IOB2[:3])),
        torch.tensor([[[0.0, -250, -300]], [[-260, -300, 0]]]),
    )
    lengths = torch.tensor([2])
    assert made.decode(given, lengths)[:, 0].tolist() == [1, 2]
    assert made.marginals(given, lengths)[:, 0, [1, 2]].diagonal().tolist() == pytest.approx([1, 1], abs=1e-4)


def test_thousands_of_steps_stay_exact() -> None:
    made, given, lengths = make_crf(4), emissions(4096, 1, 4, scale=3.0), torch.tensor([4096])
    tags = torch.zeros(4096, 1, dtype=torch.long)
    forwards = made.first + given[0, 0]
    for emission in given[1:, 0]:
        forwards = torch.logsumexp(forwards[:, None] + made.transitions, dim=0) + emission
    log_partition = torch.logsumexp(forwards + made.last, dim=0)
    gold = given[:, 0, 0].sum() + 4095 * made.transitions[0, 0] + made.first[0] + made.last[0]
    expected = float(log_partition - gold) / 4096
    assert float(made.loss(given, tags, lengths)) == pytest.approx(expected, rel=1e-12)
    assert made.marginals(given, lengths).sum(dim=2).sub(1).abs().max() < 1e-12


def test_autocast_does_not_change_the_crf() -> None:
    made = LinearChainCRF(5, None)
    given = emissions(5, 4, 5).bfloat16()
    loss = made.loss(given.float(), TAGS, LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = made.loss(given, TAGS, LENGTHS)
        assert made.marginals(given, LENGTHS).equal(made.marginals(given.float(), LENGTHS))
    assert mixed.dtype == torch.float32
    assert mixed.equal(loss)


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [
        (None, "O", True),
        (None, "B-per", True),
        (None, "I-per", False),
        ("O", "I-per", False),
        ("B-per", "I-per", True),
        ("I-per", "I-per", True),
        ("B-loc", "I-per", False),
        ("I-loc", "I-per", False),
        ("I-per", "B-per", True),
        ("I-per", "O", True),
    ],
)
def test_inside_tag_follows_only_a_tag_of_its_kind(before: str | None, after: str, allowed: bool) -> None:
    mask = forbidden_transitions(IOB2)
    assert mask is not None
    row = -1 if before is None else IOB2.index(before)
    assert may_follow(before, after) == allowed == (not mask[row, IOB2.index(after)])


@pytest.mark.parametrize(
    "labels", [("NOUN", "VERB", "INTJ"), ("O", "B-per"), ("O", "B-per", "I-per", "E-per"), ("O", "I-per")]
)
def test_labels_that_are_not_iob2_have_no_mask(labels: tuple[str, ...]) -> None:
    assert forbidden_transitions(labels) is None


def test_entity_that_opens_with_an_inside_tag_is_invalid_iob2() -> None:
    assert is_valid_iob2([("B-per", "I-per", "O"), ()])
    assert not is_valid_iob2([("O", "O"), ("O", "I-per")])
    assert not is_valid_iob2([("I-per",)])


def test_checkpoint_brings_its_own_mask() -> None:
    made = LinearChainCRF(5, None)
    made.load_state_dict(LinearChainCRF(5, forbidden_transitions(IOB2)).state_dict())
    assert made.forbidden.equal(forbidden_transitions(IOB2))


def test_mask_without_an_allowed_label_is_rejected() -> None:
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[1] = True
    with pytest.raises(ValueError, match="after label 1"):
        LinearChainCRF(3, mask)
    with pytest.raises(ValueError, match="at the start"):
        LinearChainCRF(1, torch.tensor([[False], [True]]))


def test_mask_of_another_shape_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\)"):
        LinearChainCRF(3, torch.zeros(3, 3, dtype=torch.bool))
