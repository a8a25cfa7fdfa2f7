"""The program that torchrun starts in the test of data-parallel training; prints one JSON line per report."""

import contextlib
import json
import sys
from pathlib import Path

import torch

from tests.support.point_objectives import Points, training
from training import parallel, trainer


def main(folder: Path) -> None:
    torch.set_num_threads(1)

    def report(epoch: int, batch: int, batches: int, loss: float) -> None:
        print(json.dumps([parallel.rank(), epoch, batch, batches, loss]), flush=True)

    with parallel.process_group():
        own = Points(seed=parallel.rank())  # different weights in each process, replaced by those of process 0
        history = trainer.fit(own, training(accumulate=2, average=0.5, epochs=4), folder, report)
        ends = [parameter.detach().flatten() for parameter in own.network.parameters()]
        refused = ""
        try:
            parallel.from_first(refuse)
        except FileExistsError as error:
            refused = str(error)
        result = {"history": history, "weights": torch.cat(ends), "refused": refused}
        name = f"process-{parallel.rank()}.pt"
        result["threads"] = threads()
    result["threads_after"] = threads()
    torch.save(result, folder / name)


def threads() -> list[str]:
    """Return the names of this process's threads; [] without /proc."""
    names = []
    for thread in Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(OSError):  # the thread has just ended
            names.append(thread.read_text().strip())
    return names


def refuse() -> None:
    raise FileExistsError("the folder is taken")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
