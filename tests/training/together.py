"""What torchrun starts in the test of several processes: a run of the points, a line of JSON a report."""

import contextlib
import json
import sys
from pathlib import Path

import torch

from tests.training.points import Points, training
from training import parallel
from training import trainer as loop


def main(folder: Path) -> None:
    torch.set_num_threads(1)

    def report(epoch: int, batch: int, batches: int, loss: float) -> None:
        print(json.dumps([parallel.rank(), epoch, batch, batches, loss]), flush=True)

    with parallel.joined():
        own = Points(seed=parallel.rank())  # other weights in each process: all begin with those of the first
        history = loop.fit(own, training(accumulate=2, average=0.5, epochs=4), folder, report)
        ends = [parameter.detach().flatten() for parameter in own.network.parameters()]
        refused = ""
        try:
            parallel.from_first(refuse)
        except FileExistsError as error:
            refused = str(error)
        told = {"history": history, "weights": torch.cat(ends), "refused": refused}
        name = f"process-{parallel.rank()}.pt"
        told["threads"] = threads()
    told["threads_after"] = threads()
    torch.save(told, folder / name)


def threads() -> list[str]:
    """The names of this process's threads; none where there is no such file system: only Linux tells them so."""
    names = []
    for thread in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append(thread.read_text().strip())
    return names


def refuse() -> None:
    raise FileExistsError("the folder is taken")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
