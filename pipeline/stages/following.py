"""The next commands that a stage suggests at its end."""

from modules.transformer import Decoder, Transformer
from pipeline.compare.select import has_results
from pipeline.config.tasks import finetuning_tasks
from pipeline.runs.folders import RunFolder, list_runs
from pipeline.tasks.base import GAP, PretrainingTask


def after_pretraining(run: RunFolder, task: PretrainingTask, backbone: type[Transformer]) -> dict[str, str]:
    """Return command -> purpose; a command names this run if its default would be another bundle."""
    prompt = f"The {GAP} is in the garden." if task.fills_gaps else "One sunny morning"
    able = {name: kind.backbones for name, kind in finetuning_tasks().items() if backbone in kind.backbones}
    best = [name for name, backbones in able.items() if backbones[0] is backbone]
    best.sort(key=lambda name: len(able[name]), reverse=True)  # those of most architectures first
    commands = {f'make generate PROMPT="{prompt}"': "generate text with this model"}
    if able:
        first, *others = best or able
        init = "" if best else f" INIT={run.name}"
        also = f" (or {', '.join(others)})" if others else ""
        commands[f"make finetune-{first}{init}"] = f"fine-tune it for a task{also}"
    return {
        **commands,
        "make evaluate DATA=...": "evaluate it on another corpus",
        **next_comparison(run),
        "make ui": "see all runs in MLflow",
    }


def after_import(
    run: RunFolder, backbone: type[Transformer], *, has_head: bool, has_chatml: bool
) -> dict[str, str]:
    """Return command -> purpose, for an imported model."""
    able = [
        name
        for name, kind in finetuning_tasks().items()
        if backbone in kind.backbones and (has_head or not kind.keeps_head)
    ]
    commands = {}
    if able:
        first, *others = able
        also = f" (or {', '.join(others)})" if others else ""
        commands[f"make finetune-{first} INIT={run.name}"] = f"fine-tune it for a task{also}"
    if has_head and backbone is Decoder:
        if has_chatml:
            commands[f"make try-chat BUNDLE={run.name}"] = "talk to it"
        commands[f'make generate BUNDLE={run.name} PROMPT="One sunny morning"'] = "generate text with it"
    if has_head:
        commands[f"make evaluate BUNDLE={run.name} DATA=..."] = "evaluate it on a corpus"
    return {**commands, f"make lineage MODEL={run.name}": "trace its files to their source"}


def next_comparison(run: RunFolder) -> dict[str, str]:
    """Return the command that compares the run with the previous one of its task, if there is one."""
    task = (run.record.choices or {}).get("task")
    others = [
        other
        for other in list_runs(run.path.parent)
        if other.name != run.name and other.is_of(run.record.stage, task) and has_results(other)
    ]
    command = f'make compare RUNS="last:2:{run.record.stage}:{task}"'
    return {command: f"is it better than {others[0].name}?"} if others else {}
