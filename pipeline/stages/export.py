"""Write a bundle as a folder that Hugging Face's `transformers` loads without code of ours."""

from pathlib import Path

from pipeline import report
from pipeline.commands import StageResult
from pipeline.config.plain import Config
from pipeline.interop.adapter import export_adapter
from pipeline.interop.export import export_bundle
from pipeline.registry import versions as registry
from pipeline.runs.bundle import load_bundle

#: Where exports go that are given no folder.
EXPORTS = Path("exports")

#: The format of an adapter beside its base; the others are families of models.
PEFT = "peft"


def export(config: Config) -> StageResult:
    """Export the bundle that is named, and say how it was proved equal.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        InteropError: no class can express it, the folder exists, or what was loaded differs.
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
        f"{report.short(folder)}: {exported.architecture}, loaded in a fresh process: the same tokens, and "
        f"equal logits (relative error {exported.error:.0e})",
    )
    return StageResult(stage="export", bundle=str(source), output=[str(folder)])
