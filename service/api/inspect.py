"""``/v1/inspect``: gates, cells and gradients of one input, for people who want to see what a network does."""

from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from models.inspect import VARIANT, Inspection, Layer, NotInstalled
from models.inspect.operators import GATES, Floats, UnsupportedOperator
from models.inspect.units import rank
from models.manifest import BundleError
from service.api import schemas
from service.api.fields import RequestModel, parameter
from service.api.pipeline import RequestContext
from service.api.routes import Card, Docs, Route
from service.errors import DeadlinePassed, InvalidRequest, TooLarge, Unavailable, UnknownModel

STEPS_MAX = 256  # of one input: the answer has a number for each step, unit and part
UNITS = 24  # of a layer, unless the request says how many
DIGITS = 4


class InspectParameters(RequestModel):
    """What to return."""

    units: Annotated[int, Field(ge=1, le=64)] | None = parameter(
        "the units of each layer to return, those that vary most first", UNITS
    )


class InspectRequest(RequestModel):
    """Body of ``/v1/inspect``."""

    inputs: schemas.TagInputs  # one of them
    model: schemas.ModelName
    parameters: InspectParameters | None = None


class LayerObject(TypedDict):
    """One direction of one layer. T steps, U units.

    ``direction``: forward or backward. ``units``: the numbers of the units, those that vary most first. ``parts``:
    gates, cell and state, (U, T) each. ``means``: of each gate over all units, (T,). ``influence``: how much the last
    state depends on the memory at each step, relative to the last step (T,), or null for a cell without that
    computation.
    """

    name: str
    kind: Literal["RNN", "GRU", "LSTM"]
    direction: str
    hidden: int
    units: list[int]
    parts: dict[str, list[list[float]]]
    means: dict[str, list[float]]
    influence: list[float] | None


class InspectionObject(TypedDict):
    """``steps``: the words or characters of the input, or the numbers of its frames."""

    model: str
    steps: list[str]
    layers: list[LayerObject]


async def _inspect(context: RequestContext, body: bytes) -> Any:
    request = await schemas.read_request(InspectRequest, body, context.worker)
    runtime = context.worker.engine.catalog.find(request.model)
    context.model, context.request.model = request.model, runtime.identity
    runtime.check_kind(request.inputs)
    if not isinstance(request.inputs, str) and not runtime.is_single(request.inputs):
        raise InvalidRequest("a list has several inputs; send one, as a string or as frames", field="inputs")
    length = runtime.encode(request.inputs).length
    if length > STEPS_MAX:
        message = f"the input has {length} steps; at most {STEPS_MAX} can be inspected; send a shorter one"
        raise TooLarge(message, limit=STEPS_MAX, field="inputs", value=length)
    if not length:
        raise InvalidRequest("the input is empty; send at least one step", field="inputs")
    units = (request.parameters.units if request.parameters else None) or UNITS

    def layers(inspection: Inspection) -> Any:
        return list(inspection.steps), [layer_object(layer, units) for layer in inspection.layers]

    inspect = context.worker.inspections.inspect
    try:
        steps, objects = await inspect(runtime.bundle, request.inputs, layers, request=context.request)
    except (BundleError, UnsupportedOperator) as error:
        raise InvalidRequest(f"the model cannot be inspected: {error}", field="model", value=request.model) from None
    except NotInstalled as error:
        raise Unavailable(f"inputs cannot be inspected here: {error}") from None
    return {"model": request.model, "steps": steps, "layers": objects}


def layer_object(layer: Layer, count: int) -> LayerObject:
    """Return one layer with its ``count`` most varying units."""
    units = rank(layer.parts[layer.memory], "varying")[:count]
    return {
        "name": layer.name,
        "kind": layer.kind,
        "direction": layer.direction,
        "hidden": layer.hidden,
        "units": units,
        "parts": {part: _rounded(values[:, units].T) for part, values in layer.parts.items()},
        "means": {part: _rounded(values.mean(axis=1)) for part, values in layer.parts.items() if part in GATES},
        "influence": None if layer.influence is None else _rounded(layer.influence),
    }


def _rounded(values: Floats) -> Any:
    return values.round(DIGITS).tolist()


def _example(card: Card) -> Any:
    if VARIANT not in card["scores"] or card["codec"] == "series" or not card["examples"]:
        return None
    return {"inputs": card["examples"][0], "model": card["id"]}


DOCS = Docs(
    group="Models",
    summary="See what the layers do at every step of an input",
    about="Gates, cells and states of the units that vary most, and how much the last state depends on each step.",
    body=InspectRequest,
    answer=InspectionObject,
    example=_example,
    errors=(UnknownModel, TooLarge, DeadlinePassed),
    infers=True,
)
ROUTES = (Route("/v1/inspect", ("POST",), _inspect, docs=DOCS),)
