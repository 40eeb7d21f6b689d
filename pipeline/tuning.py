"""How the process uses the cores and the memory of the machine."""

import ctypes
import os

#: Rounds of about 40 ns: as fast as GNU OpenMP's default of 300,000 on an idle machine.
SPIN_COUNT = "1000"
#: The most freed memory that is kept; allocations larger than HEAP_BYTES are always returned to the system,
#: since some versions of the GNU C library accept no more than 32 MB here.
KEPT_BYTES, HEAP_BYTES = 512 * 2**20, 32 * 2**20
#: Numbers of the options in its malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def tune_process() -> None:
    """Configure OpenMP and malloc, unless the environment does; call it before importing torch."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        _wait_briefly()
    if not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        _keep_freed_memory()


def _wait_briefly() -> None:
    """Make waiting OpenMP threads sleep soon.

    The threads synchronize after each operation, and spin until the last one arrives. If another program
    occupies the core of the last one, the others spin for a whole time slice of the scheduler, thousands of
    times per step: training on two cores next to a busy program ran at a fraction of the speed of a single
    thread.
    """
    os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


def _keep_freed_memory() -> None:
    """Keep freed memory for the next step, where the C library is GNU's.

    The activations of each step are freed in its backward pass. By default most of them are returned to the
    system, which gives them back page by page, zeroed: 5,000 page faults per default step.
    """
    _malloc("mallopt", M_MMAP_THRESHOLD, HEAP_BYTES)
    _malloc("mallopt", M_TRIM_THRESHOLD, KEPT_BYTES)


def return_freed_memory() -> None:
    """Return to the system what the preparation of data has freed: the steps of training need less."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()
    _malloc("malloc_trim", 0)


def _malloc(name: str, *arguments: int) -> None:
    """Call a function of the GNU C library; with another C library, or on another system, do nothing."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (OSError, TypeError, AttributeError):
        return
    function(*arguments)


def usable_cores() -> int:
    """Return the number of cores that this process may use; without Linux, that of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
