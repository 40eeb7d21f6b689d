"""How the threads of a tensor operation wait for each other, and the cores that there are for them."""

import os

#: Rounds of about 40 ns: as fast as GNU OpenMP's default of 300,000 on an idle machine.
SPIN_COUNT = "1000"


def wait_briefly() -> None:
    """Make waiting OpenMP threads sleep soon, unless configured otherwise; call it before importing torch.

    The threads synchronize after each operation, and spin until the last one arrives. If another program
    occupies the core of the last one, the others spin for a whole time slice of the scheduler, thousands of
    times per step: training on two cores next to a busy program ran at a fraction of the speed of a single
    thread.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def usable_cores() -> int:
    """Return the number of cores that this process may use; without Linux, that of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
