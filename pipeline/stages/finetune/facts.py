"""Facts about a fine-tuning run for its summary: its length, and its gain over baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pipeline import report
from pipeline.compare.significance import Difference, paired_difference
from pipeline.evaluation.rows import Evaluation
from pipeline.machine.devices import rows_per_step
from pipeline.machine.options import TrainerOptions
from pipeline.tasks.finetuning import Row
from pipeline.training.callbacks.trend import LossTrend


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The score of a simpler model on the same rows, and the difference from the fine-tuned model."""

    title: str
    score: float
    difference: Difference


def compare_baselines(evaluation: Evaluation, train: Sequence[Row]) -> dict[str, Baseline]:
    """Score the baselines of the task on the same rows; one that fails is reported and left out."""
    scores = evaluation.task.row_scores(evaluation.predictions, evaluation.rows)
    found = {}
    titles = evaluation.task.baseline_titles
    for name, make in evaluation.task.baselines(train, evaluation.rows).items():
        try:
            other = make()
        except Exception as error:  # no failure here may lose the trained model
            reason = str(error).partition("\n")[0]
            report.say("Baseline", f"the {titles[name]} failed ({type(error).__name__}: {reason})")
            continue
        difference = paired_difference(scores, other)
        found[name] = Baseline(title=titles[name], score=float(other.mean()), difference=difference)
    return found


def baseline_metrics(baselines: Mapping[str, Baseline], metric: str) -> dict[str, float]:
    """Return the metrics to record: each score, and the difference with its interval and p-value."""
    values = {}
    for name, one in baselines.items():
        values[f"baseline_{name}_{metric}"] = one.score
        for part, value in asdict(one.difference).items():
            if part != "n_rows":
                values[f"baseline_{name}_difference{'' if part == 'value' else f'_{part}'}"] = value
    return values


def baseline_facts(baselines: Mapping[str, Baseline], metric: str) -> dict[str, str]:
    """Describe the baselines; the comparison with the majority class needs no significance test."""
    facts = {}
    for name, one in baselines.items():
        verdict = "" if name == "majority" else f"; {_verdict(one.difference)}"
        facts[one.title] = f"{one.score:.4f} {metric}{verdict}"
    return facts


def _verdict(difference: Difference) -> str:
    interval = f"95 %: {difference.low:+.4f} to {difference.high:+.4f}, p = {difference.p_value:.2g}"
    if not difference.is_significant:
        return f"no significant difference ({difference.value:+.4f}; {interval})"
    word = "better" if difference.value > 0 else "worse"
    return f"this model is {abs(difference.value):.4f} {word} ({interval})"


def length_facts(options: TrainerOptions, trend: LossTrend, n_rows: int) -> dict[str, str]:
    """Describe the number of epochs, and whether the validation loss was still falling."""
    if not trend.losses:  # a run begun before losses were kept
        return {}
    steps = trend.last_step
    epochs = steps * rows_per_step(options) / n_rows
    facts = {"epochs": f"{epochs:.1f} of {n_rows:,} examples ({steps:,} of {options.n_steps:,} steps)"}
    if trend.still_falls:
        remedy = f"more steps may help: trainer.max_steps={2 * options.n_steps}"
        facts["validation loss at the end"] = f"still falling; {remedy}"
    elif len(trend.losses) > 1:
        facts["validation loss at the end"] = f"no longer falling: lowest at step {trend.lowest_step:,}"
    return facts
