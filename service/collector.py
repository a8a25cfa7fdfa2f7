"""How Python's garbage collector is set once a process has loaded what it keeps. Knows nothing else."""

import gc

# Objects that are new and alive when the collector looks among them for cycles. A waiting request is some dozens, and
# holds none: at Python's 700 every few arrivals have all who wait walked through, a fifth of the core where there are
# 500 of them. The walk over so many takes 1.5 ms. docs/decisions.md, "The collector looks less often".
YOUNG = 20_000


def settle() -> None:
    """Keep what is there for good, out of the collector's sight, and let it look at what is new less often.

    A full collection no longer stops every request for tens of milliseconds (87,000 objects to walk; none after this).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
