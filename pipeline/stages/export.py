"""Write a bundle as a folder that Hugging Face's `transformers` loads without further code."""

from pathlib import Path

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.plain import Config
from pipeline.interop.adapter import export_adapter
from pipeline.interop.export import export_bundle
from pipeline.registry import versions as registry
from pipeline.runs.bundle import load_bundle

#: The default folder of exports.
EXPORTS = Path("exports")

#: The format of an adapter; the other formats are families of models.
PEFT = "peft"


def export(config: Config) -> StageResult:
    """Export a bundle, and report how the result was verified.

    Raises:
        BundleError: if there is no such bundle, or it is damaged.
        InteropError: if no class can express it, the folder exists, or the loaded model differs.
    """
    source = registry.find_trained(config.bundle, Path(config.runs_dir))
    bundle = load_bundle(source)
    folder = Path(config.output) if config.output else EXPORTS / bundle.provenance["run"]
    report.say("Bundle", report.short(source))
    if config.format == PEFT:
        exported = export_adapter(bundle, folder)
    else:
        exported = export_bundle(bundle, folder, config.format)
    report.say(
        "Export",
        f"{report.short(folder)}: {exported.architecture}, loaded in a new process: the same tokens, and "
        f"equal logits (relative error {exported.error:.0e})",
    )
    return StageResult(stage="export", bundle=str(source), output=[str(folder)])
