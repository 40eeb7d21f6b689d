"""Run the harness on a bundle."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.harness.options import HarnessOptions

if TYPE_CHECKING:
    from lm_eval.api.model import LM

#: The number of bootstrap resamples for standard errors without a formula, such as that of a perplexity.
N_RESAMPLES = 1000


def check_installed() -> None:
    """Check that the library is installed.

    Raises:
        ConfigError: the library is not installed; the hint says how to install it.
    """
    if find_spec("lm_eval") is None:
        raise ConfigError(
            "the lm-evaluation-harness is not installed",
            "the optional library lm-eval, version 0.4.13",
            "run .venv/bin/python -m pip install 'lm-eval>=0.4.13,<0.5'",
        )


def evaluate_tasks(
    model: "LM", tasks: Mapping[str, Any], options: HarnessOptions, *, seed: int
) -> dict[str, Any]:
    """Evaluate a model on loaded tasks; return the output of `lm_eval.evaluator.evaluate`."""
    from lm_eval.evaluator import evaluate

    for task in tasks["tasks"].values():
        own = task.get_config("num_fewshot")
        if own != 0:  # tasks with 0 make no sense with examples
            task.set_config("num_fewshot", own or 0 if options.n_shots is None else options.n_shots)
        task.set_fewshot_seed(seed=seed)
    return dict(evaluate(model, tasks, limit=options.limit, bootstrap_iters=N_RESAMPLES))
