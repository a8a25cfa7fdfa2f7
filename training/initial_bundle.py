"""The bundle that a training starts from: its vocabularies, and the weights of its graphs, fp32 or int8.

An export copies the weights of a network into a graph. A few biases are added first, and bytes are rounded. So the
exports of a network whose weights are distinct numbers show which weight each number of a graph is.

N weights of a network, M numbers of its graphs.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from models import bundle as bundles
from models.codecs import Codec
from models.manifest import Manifest, Variant
from models.onnx_session import Placement
from training.data.examples import DataError
from training.nn.networks import Network
from training.onnx_export.builder import ExportedGraph, Floats, Precision
from training.onnx_export.network_graph import export_graph
from training.recipe import Recipe

MOST_WEIGHTS = 2**24  # float32 counts up to here
DIFFERENCES = {"fp32": 1e-5, "int8": 0.02}  # between the bundle and a new export, relative to the largest number
REMEDY = "give another bundle, or a recipe and data like those of this one"
NOT_WEIGHTS = ("reach", "pins")  # prefixes of constants whose values are in their names


@dataclass(frozen=True, kw_only=True)
class InitialBundle:
    """The bundle of a recipe's `init`."""

    path: Path
    manifest: Manifest
    codec: Codec
    digest: str

    @classmethod
    def open(cls, recipe: Recipe) -> Self | None:
        """Open the bundle of a recipe that has one.

        Raises BundleError for a damaged bundle, and DataError for another task or codec than the recipe's.
        """
        if recipe.init is None:
            return None
        bundle = bundles.load(recipe.init, placement=Placement(device="cpu"))
        start = cls(path=recipe.init, manifest=bundle.manifest, codec=bundle.task.codec, digest=bundle.digest)
        for field in ("task", "codec", "forecast"):
            start._compare(field, getattr(bundle.manifest, field), getattr(recipe, field))
        return start

    def check_labels(self, labels: tuple[str, ...], text_labels: tuple[str, ...]) -> None:
        """Raise DataError if the labels of the data, or those that the recipe merges, are not those of the bundle."""
        self._compare("labels", self.manifest.labels, labels)
        self._compare("text_labels", self.manifest.text_labels, text_labels)

    def read_into(self, network: Network) -> str:
        """Set the weights of a network, and return a note.

        Weights that no graph has stay as they are, such as those of an auxiliary head. Raises DataError for other
        shapes, and for graphs that do not determine the weights.
        """
        precision: Precision = "fp32" if "fp32" in self.manifest.variants else "int8"
        graph = export_graph(network, precision)
        expected, found = _numbers(graph), _stored(self.path, self.manifest.variants[precision], graph)
        for name in filter(found.__contains__, expected):
            self._compare(f"the shape of {name}", found[name].shape, expected[name].shape)
        if missing := sorted(expected.keys() ^ found.keys()):
            raise DataError(f"{self.path}: only one of the bundle and the recipe has {', '.join(missing)}; {REMEDY}")
        _set_weights(network, precision, found)
        for name, numbers in _numbers(export_graph(network, precision)).items():
            if not _are_close(numbers, found[name], DIFFERENCES[precision]):
                raise DataError(
                    f"{self.path}: {name} has only products of the weights, which can be read from the variant fp32; "
                    "export the bundle with that variant"
                )
        return (
            f"training starts from the weights and the vocabularies of {self.manifest.name}@{self.manifest.version}, "
            f"variant {precision}, sha256:{self.digest[:12]}"
        )

    def _compare(self, what: str, ours: Any, theirs: Any) -> None:
        if ours != theirs:
            raise DataError(f"{self.path}: {what}: {ours} in the bundle, {theirs} in the recipe or its data; {REMEDY}")


def _numbers(graph: ExportedGraph) -> dict[str, Floats]:
    """Return the floating-point constants of a graph and its reader before they are rounded, by name."""
    found = {}
    for prefix, part in _parts(graph):
        for tensor in part.model.graph.initializer:
            rounded = part.rounded.get(tensor.name)
            numbers = onnx.numpy_helper.to_array(tensor) if rounded is None else rounded.exact
            if _is_weight(tensor.name, numbers):
                found[prefix + tensor.name] = numbers
    return found


def _stored(path: Path, variant: Variant, graph: ExportedGraph) -> dict[str, Floats]:
    """Return the same constants of a bundle's variant. Bytes become the numbers that they stand for."""
    found = {}
    for prefix, part in _parts(graph):
        files = [variant.reader] if part is graph.reader else [variant.file, variant.speller]
        models = [onnx.load_model(path / file) for file in files if file is not None]
        arrays = {w.name: onnx.numpy_helper.to_array(w) for model in models for w in model.graph.initializer}
        for name, array in arrays.items():
            rounded = part.rounded.get(name)
            if rounded is not None:  # an array of another shape is refused later
                scale = arrays[rounded.scale]
                array = array * (scale.reshape(rounded.shape) if array.shape == rounded.exact.shape else 1.0)
            if _is_weight(name, array):
                found[prefix + name] = array
    return found


def _parts(graph: ExportedGraph) -> list[tuple[str, ExportedGraph]]:
    """Return the reader, if there is one, and the graph, with prefixes for the names of their constants.

    Of weights that both have, those of the graph count: it has a scale for each row.
    """
    return [("reader.", graph.reader), ("", graph)] if graph.reader is not None else [("", graph)]


def _is_weight(name: str, numbers: NDArray[Any]) -> bool:
    return numbers.dtype.kind == "f" and not name.startswith(NOT_WEIGHTS)


def _set_weights(network: Network, precision: Precision, stored: Mapping[str, Floats]) -> None:
    """Set each weight that is one of the stored numbers, or a part of a sum of them."""
    weights = parameters_to_vector(network.parameters()).detach().numpy().copy()  # (N,)
    if len(weights) > MOST_WEIGHTS:
        raise DataError(f"{len(weights):,} weights are more than the {MOST_WEIGHTS:,} that init reads; train without")
    values = np.concatenate([each.ravel() for each in stored.values()])  # (M,)
    counted = np.arange(1, len(weights) + 1, dtype=np.float32)
    shuffled = np.random.default_rng(0).permutation(counted)
    probe = copy.deepcopy(network)

    def find(absent: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Floats]:
        """Return the index of each number that is one weight, and its value, if the absent weights are zero."""
        exports = []
        for numbers in (counted, shuffled):
            vector_to_parameters(torch.from_numpy(np.where(absent, np.float32(0), numbers)), probe.parameters())
            graph = _numbers(export_graph(probe, precision))
            # The table of forms leaves out vectors of zeros, and so can have another shape.
            parts = [graph[name] if graph[name].shape == each.shape else 0 * each for name, each in stored.items()]
            exports.append(np.concatenate([part.ravel() for part in parts]))
        first, second = exports
        index = np.clip(np.nan_to_num(first), 1, len(weights)).astype(np.int64) - 1
        is_weight = (counted[index] == first) & (shuffled[index] == second)
        return index[is_weight], values[is_weight]

    absent = np.zeros(len(weights), bool)
    known = np.zeros(len(weights), bool)
    index, value = find(absent)
    weights[index], known[index] = value, True
    start = 0
    for parameter in network.parameters():
        part = slice(start, start + parameter.numel())
        start = part.stop
        # A sum gives one number for two weights: the first becomes zero, and the second the sum.
        trial = absent.copy()
        trial[part] |= ~known[part]
        if known[part].all():
            continue
        index, value = find(trial)
        fresh = ~known[index]
        if fresh.any():
            weights[index[fresh]], known[index[fresh]] = value[fresh], True
            weights[trial] = 0.0
            known |= trial
            absent = trial
    vector_to_parameters(torch.from_numpy(weights), network.parameters())


def _are_close(numbers: Floats, stored: Floats, difference: float) -> bool:
    finite = np.isfinite(stored)
    if not np.array_equal(finite, np.isfinite(numbers)):
        return False
    largest = np.abs(stored[finite]).max(initial=0.0)
    return bool(np.abs(numbers[finite] - stored[finite]).max(initial=0.0) <= difference * max(largest, 1e-6))
