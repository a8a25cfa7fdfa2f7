"""Splits the graph of a tagger or classifier of words in two: the graph, and the speller of out-of-vocabulary words.

The operators and weights stay the same, so the two graphs give the same bits as the whole.
N OOV words, F numbers of a vector.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import onnx

from models import bundle
from models.manifest import CARD_FILE, Manifest, Variant, read
from models.speller import LENGTHS, OOV_VECTORS


def split_bundle(path: Path) -> Manifest:
    """Split the graphs of a bundle, write it in place, and return its manifest.

    Graphs that `split_speller` does not split stay as they are. Raises BundleError for a damaged bundle.
    """
    bundle.load(path)  # checks the digests
    manifest = read(path)
    files = {file: (path / file).read_bytes() for file in manifest.checksums}
    variants = {}
    for name, variant in manifest.variants.items():
        variants[name], parts = graph_files(variant, onnx.load_model_from_string(files[variant.file]))
        files |= parts
    if variants != manifest.variants:
        manifest = manifest.model_copy(update={"variants": variants, "files": bundle.digests(files)})
        if (path / CARD_FILE).is_file():
            files[CARD_FILE] = (path / CARD_FILE).read_bytes()
        bundle.save(path, manifest, files)
    return manifest


def graph_files(variant: Variant, model: onnx.ModelProto) -> tuple[Variant, dict[str, bytes]]:
    """Return the variant, with the speller that its model has, and the files of its graphs."""
    parts = split_speller(model)
    if parts is None:
        return variant, {variant.file: model.SerializeToString()}
    speller = f"{variant.file.removesuffix('.onnx')}-speller.onnx"
    files = zip((variant.file, speller), parts, strict=True)
    return variant.model_copy(update={"speller": speller}), {file: part.SerializeToString() for file, part in files}


def split_speller(model: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto] | None:
    """Return the graph and the speller, or None for a model without an LSTM over the characters of words.

    A convolution costs about as much as the lookup of its result. The model must concatenate a row of zeros with the
    vectors (N, F), and look up the result with the input `unseen`.
    """
    graph = model.graph
    if all(tensor.name != "spellings" for tensor in graph.input):  # the speller is split off, or there is none
        return None
    made_by = {output: node for node in graph.node for output in node.output if output}
    (table,) = (node.input[0] for node in graph.node if node.op_type == "Gather" and node.input[1] == "unseen")
    zeros, vectors = made_by[table].input
    (width,) = (weight.dims[1] for weight in graph.initializer if weight.name == zeros)
    needed = _needed(vectors, made_by)
    spells = [node for node in graph.node if not needed.isdisjoint(node.output)]
    if all(node.op_type != "LSTM" for node in spells):
        return None
    others = [node for node in graph.node if needed.isdisjoint(node.output)]
    columns = {name for pair in LENGTHS.items() for name in pair}
    own = [tensor for tensor in graph.input if tensor.name not in columns]
    read = [tensor for tensor in graph.input if tensor.name in columns]
    between = onnx.helper.make_tensor_value_info(OOV_VECTORS, onnx.TensorProto.FLOAT, ["N", width])
    parts = _part(model, others, [*own, between], graph.output), _part(model, spells, read, [between])
    for part in parts:
        for node in part.graph.node:
            for names in (node.input, node.output):
                names[:] = [OOV_VECTORS if name == vectors else name for name in names]
        onnx.checker.check_model(part)
    return parts


def _needed(value: str, made_by: dict[str, onnx.NodeProto]) -> set[str]:
    """Return a value and all values that it is computed from."""
    found, waiting = set(), [value]
    while waiting:
        name = waiting.pop()
        if name and name not in found:
            found.add(name)
            waiting += made_by[name].input if name in made_by else ()
    return found


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
) -> onnx.ModelProto:
    """Return a model of some nodes, with the weights that they read."""
    read = set(_inputs(nodes))
    weights = [weight for weight in model.graph.initializer if weight.name in read]
    graph = onnx.helper.make_graph(nodes, model.graph.name, inputs, outputs, weights)
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    part.producer_name = model.producer_name
    return part


def _inputs(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Yield the values that nodes read, in the bodies of their loops, too."""
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _inputs(attribute.g.node)
