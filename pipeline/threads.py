"""How threads of a tensor operation wait for each other."""

import os

#: Rounds of about 40 ns: as fast as GNU OpenMP's default of 300,000 on an idle machine.
SPIN_COUNT = "1000"


def wait_briefly() -> None:
    """Let OpenMP's threads sleep soon where they wait, unless the user has set it; before torch is imported.

    The threads meet after each operation, and spin until the last one is there. Where another program has the
    core of the last one, the others spin for a whole slice of the scheduler, thousands of times in a step:
    training on two cores beside a busy program ran at a fraction of the speed of a single thread.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
