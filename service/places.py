"""Where an engine's networks run: in this process, or in the owner's, which has them for all workers.

Knows bundles and lanes. Knows no request and no HTTP.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Protocol

from models import bundle as bundles
from models import self_test as reference
from models.bundle import Bundle
from models.manifest import BundleError, read
from models.onnx_session import Placement
from models.tasks import Generation
from service.model_runtime import ModelRuntime, make_lane, open_lane
from service.owner.remote import Connection, Remote
from service.owner.start import Starter, check_private, meet
from service.scheduling.loop import LoopBudget
from service.settings import BadSetting, Settings
from service.telemetry import Telemetry
from service.tensor_runtime import Graph


class Place(Protocol):
    """What an engine asks of the place where its networks run."""

    @property
    def ready(self) -> bool:
        """Whether work can be handed over."""
        ...

    def open(self, path: Path, telemetry: Telemetry) -> ModelRuntime:
        """Open a bundle. Blocks; raises BundleError."""
        ...

    def name(self, bundle: Bundle) -> str:
        """Say where a bundle runs, for the log."""
        ...

    def begin(self) -> None:
        """Do what needs the running loop."""
        ...

    def close(self) -> None:
        """Give up what still runs."""
        ...


class Here:
    """This process."""

    ready = True

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # One thread: long work of several bundles queues up rather than fight for the cores of this worker.
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="compute")
        self._turns = LoopBudget()

    def open(self, path: Path, telemetry: Telemetry) -> ModelRuntime:
        """Open a bundle and run its examples."""
        settings = self._settings
        placement = Placement(device=settings.device, threads=settings.threads)
        bundle = bundles.load(path, variant=settings.variant, placement=placement)
        reference.self_test(bundle)
        return open_lane(bundle, settings, telemetry, self._executor, self._turns)

    def name(self, bundle: Bundle) -> str:
        """See Place."""
        return bundle.network.device

    def begin(self) -> None:
        """See Place."""

    def close(self) -> None:
        """See Place."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class There:
    """The owner's process. Its bundles are read here, too, to encode and to answer; their graphs are not opened."""

    def __init__(self, settings: Settings, connection: Connection) -> None:
        self._settings, self._connection = settings, connection

    @property
    def ready(self) -> bool:
        """See Place."""
        return self._connection.connected

    def open(self, path: Path, telemetry: Telemetry) -> ModelRuntime:
        """Read a bundle that the owner has opened and tested."""
        name = read(path).name
        bundles_there = self._connection.hello.bundles
        if name not in bundles_there:
            raise BundleError(f"{path}: the process that has the models has no {name!r}: give it the same bundles")
        digest, variant = bundles_there[name]
        bundle = bundles.load(path, variant=variant, opened=False)
        if bundle.digest != digest:
            raise BundleError(f"{path}: the process that has the models has another {name!r}: restart the service")
        connection, settings = self._connection, self._settings
        remote = Remote(connection, name, texts=isinstance(bundle.task, Generation))
        remote_graph = Remote(connection, name, graph=True)
        graph = Graph(bundle, settings, remote_graph, remote_graph)
        return make_lane(bundle, settings, remote, remote, graph)

    def name(self, bundle: Bundle) -> str:
        """See Place."""
        return "elsewhere"

    def begin(self) -> None:
        """See Place."""
        self._connection.begin()

    def close(self) -> None:
        """See Place."""
        self._connection.close()


def place_of(settings: Settings) -> Place:
    """Where the settings say. Blocks until there is an owner, if there is to be one; raises OwnerFailed, BadSetting."""
    path = settings.owner_socket
    if settings.owner == "auto":
        raise BadSetting("SEQSERVE_OWNER=auto needs `bentoml serve`, which starts the workers that share an owner")
    if path is None:
        return Here(settings)
    check_private(path)
    start = Starter(path)
    return There(settings, Connection(path, meet(path, start), clock=monotonic, start=start))
