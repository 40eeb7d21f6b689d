"""From plain values to objects: classes of this project only, of the kind that belongs at their place."""

import sys
from pathlib import Path
from typing import Any

import pytest

from datamodules.corpus import Files, Mixture
from datamodules.errors import DataError
from datamodules.source import Source
from modules.layers import LayerSpec
from modules.positions import Learned, Position
from modules.transformer import Decoder, Transformer
from pipeline.config.compose import compose
from pipeline.config.construct import construct
from pipeline.config.groups import CONFIGS
from pipeline.config.targets import OWN_PACKAGES
from pipeline.errors import ConfigError
from pipeline.tasks.base import PretrainingTask
from pipeline.tasks.finetuning import FinetuneTask

LAYER = {"_target_": "modules.layers.LayerSpec", "d_model": 8, "n_heads": 2}


def decoder(**changes: Any) -> dict[str, Any]:
    node = {"_target_": "modules.transformer.Decoder", "n_layers": 1, "max_seq_len": 8, "layer": LAYER}
    position = {"_target_": "modules.positions.Learned", "d_model": 8, "max_seq_len": 8}
    return {**node, "position": position, "vocab_size": 300, **changes}


def test_a_node_is_built_with_the_nodes_in_it() -> None:
    built = construct(decoder(), Transformer)
    assert isinstance(built, Decoder)
    assert isinstance(built.position, Learned)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "numpy.testing.runstring",
        "torch.nn.Linear",
        "modules.transformer.nn.Linear",
        "modules.transformer.Tensor",
        "pipeline.runs.bundle.save_bundle",
        "pipeline.files.write_whole",
        "modules.layers.LayerSpec.build",
        "modules",
        "",
        "modules..layers.LayerSpec",
        "modules.layers .LayerSpec",
        "../modules.layers.LayerSpec",
    ],
)
def test_what_is_no_class_of_this_project_is_not_built(target: str) -> None:
    with pytest.raises(ConfigError, match="_target_"):
        construct({"_target_": target, "d_model": 8, "n_heads": 2})


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        (LAYER, "is modules.layers.LayerSpec; expected a subclass of Transformer"),
        (
            decoder(position=LAYER),
            "position._target_ is modules.layers.LayerSpec; expected a subclass of Position",
        ),
        (decoder(position={"inner": [LAYER]}), "position.inner._target_ is modules.layers.LayerSpec"),
        (decoder(layer={**LAYER, "_args_": [1]}), "layer._args_: LayerSpec takes no such key"),
        (decoder(_partial_=True), "_partial_: Decoder takes no such key"),
    ],
)
def test_a_class_at_the_wrong_place_and_a_key_of_hydra_are_refused(
    node: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        construct(node, Transformer)
    assert problem in str(caught.value)


def test_a_module_that_is_no_source_file_of_the_project_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of runs is a namespace package: Python would import what a bundle brings along."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for folder in ("runs/evil", "modules/evil"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "code.py").write_text("raise SystemExit('imported')\nclass Evil: pass\n")
    for target in ("runs.evil.code.Evil", "modules.evil.code.Evil", "code.Evil"):
        with pytest.raises(ConfigError, match="not a module of this project"):
            construct({"_target_": target})
    assert not [name for name in sys.modules if name.startswith("runs")]


def test_texts_are_data_whatever_they_look_like() -> None:
    text = "${oc.create:{_target_: os.system, command: 'true'}} ${oc.env:HOME} ??? \\${a}"
    built = construct(
        {"_target_": "datamodules.corpus.Files", "train": text, "columns": {"text": text}}, Source
    )
    assert isinstance(built, Files)
    assert (built.train, built.columns) == (text, {"text": text})


def test_a_mapping_with_a_target_where_no_class_is_declared_stays_a_mapping() -> None:
    options = {"_target_": "os.system", "command": "true"}
    node = {"_target_": "pipeline.sweep.options.SlurmOptions", "additional_parameters": {"x": options}}
    assert construct(node).additional_parameters == {"x": options}


def test_sources_of_a_mixture_are_built_and_nothing_else_in_their_place() -> None:
    files = {"_target_": "datamodules.corpus.Files", "train": "a.txt"}
    node = {"_target_": "datamodules.corpus.Mixture", "sources": {"a": files}}
    built = construct(node, Source)
    assert isinstance(built, Mixture)
    assert built.sources == {"a": Files(train="a.txt")}
    with pytest.raises(ConfigError, match=r"sources.a._target_ is modules"):
        construct({**node, "sources": {"a": LAYER}}, Source)


def test_an_error_that_the_user_caused_passes_through_construction_unchanged() -> None:
    with pytest.raises(DataError, match=r"^data.sources is empty; expected at least one source"):
        construct({"_target_": "datamodules.corpus.Mixture", "sources": {}}, Source)


def test_a_value_that_a_class_refuses_is_said_with_its_name() -> None:
    with pytest.raises(ConfigError, match=r"^LayerSpec: d_model 8 is not divisible by n_heads 3"):
        construct({**LAYER, "n_heads": 3}, LayerSpec)


@pytest.mark.parametrize("task", sorted(file.stem for file in (CONFIGS / "task").glob("*.yaml")))
def test_every_task_that_can_be_chosen_is_a_task(task: str) -> None:
    built = construct(compose("show-data", [f"task={task}"]).task, PretrainingTask, FinetuneTask)
    assert type(built).__module__.partition(".")[0] in OWN_PACKAGES


@pytest.mark.slow
def test_every_position_that_can_be_chosen_is_a_position() -> None:
    for file in (CONFIGS / "position").glob("*.yaml"):
        assert construct(compose("pretrain", [f"position={file.stem}"]).position, Position)
