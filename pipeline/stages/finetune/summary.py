"""The summary of a fine-tuning run: scores, predictions with targets, the gain over training from scratch."""

from collections.abc import Mapping

from pipeline import report
from pipeline.config.schema import NOTHING
from pipeline.evaluation.rows import Evaluation
from pipeline.runs.bundle import Bundle
from pipeline.stages.finetune.facts import Baseline, baseline_facts, length_facts
from pipeline.stages.finetune.gain import command_from_scratch, gain_over_scratch
from pipeline.stages.finetune.prepare import Finetuning
from pipeline.stages.following import next_comparison
from pipeline.training.states import Trained


def summarise(
    trained: Trained[Finetuning], evaluation: Evaluation, bundle: Bundle, baselines: Mapping[str, Baseline]
) -> None:
    """Print the summary: scores, predictions, facts and next commands."""
    prepared = trained.prepared
    config, run = prepared.config, prepared.run
    task = config.choices.task
    from_scratch = config.init_from == NOTHING
    facts = {
        "measured on": evaluation.on.in_words(len(evaluation.rows)),
        "validation loss": f"{bundle.metrics['val/loss']:.4f} nats",
        "bundle": report.short(bundle.folder),
        "best step": f"{bundle.provenance['step']:,}",
        "training": trained.pace,
        **length_facts(prepared.options, trained.trend, prepared.n_rows),
        **baseline_facts(baselines, prepared.task.metric),
    }
    cautions = evaluation.cautions
    if trained.checkpoints.is_tied:
        cautions.append(
            f"{evaluation.task.metric} was the same at every validation, so the loss selected the weights"
        )
    if cautions:
        facts["caution"] = "; ".join(cautions)
    gain = None if from_scratch else gain_over_scratch(config, run, bundle, evaluation)
    if gain is not None:
        facts["gain over training from scratch"] = gain
    report.summary(
        f"{run.name}: done",
        metrics={},
        scores=evaluation.scores,
        facts=facts,
        samples=evaluation.samples,
        next_commands={
            f"make try-{task}": "try this model yourself",
            f"make predict-{task} INPUT=rows.jsonl": "predict a file of rows",
            f"make evaluate-{task} DATA=...": "evaluate it on another corpus",
            **next_comparison(run),
            "make ui": "see all runs in MLflow",
        },
        address=prepared.tracked.url,
    )
    if gain is None and not from_scratch and (command := command_from_scratch(config)) is not None:
        report.say(
            "Baseline",
            f"{command}  trains from scratch, to measure the gain from pretraining",
            wrap=False,
        )
