"""The keys of the configuration that are not parameters of some constructor."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

#: Groups and keys that describe the contents of a bundle.
BUNDLE_KEYS = ("size", "model", "position", "tokenizer", "tokenizer_text_bytes")

#: `init_from` of a fine-tuning that starts from random weights.
NOTHING = "none"

#: Parameters that are only known once the data is read; `pipeline.prepare` sets them, a yaml never does.
LATE_PARAMETERS = frozenset(
    {"model.backbone.vocab_size", "model.backbone.target_vocab_size", "model.head.embedding"}
)


@dataclass(kw_only=True)
class Stage:
    """The name of a stage, and the groups and keys of the configuration that it reads."""

    name: str
    uses: list[str]


@dataclass(kw_only=True)
class Size:
    """The size of the model: everything else follows from these four numbers."""

    d_model: int
    n_layers: int
    n_heads: int
    max_seq_len: int


@dataclass(kw_only=True)
class ModelParts:
    """A backbone, its head and their init scheme."""

    backbone: dict[str, Any]
    head: dict[str, Any]
    init: str


@dataclass(kw_only=True)
class Root:
    """The keys of `configs/run.yaml` that are not groups."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    name: str | None = None
    init_from: str | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    bundle: str = "latest"
    resume: bool | str = False
    runs_dir: str = "runs"
    cache_dir: str = ".cache"
    tokenizer_text_bytes: Annotated[int, Field(ge=1)] = 100_000_000
    packing: Literal["concat", "whole"] = "concat"
    quantization: Literal["int8"] | None = None
    prompts: list[str] | None = None
    log_corpus_text: bool = False
    runs: list[str] | None = None
    input: str | None = None
    output: str | None = None
    format: str | None = None
    source: str | None = None
    max_seq_len: Annotated[int, Field(ge=1)] | None = None
    run: str | None = None
    model_name: str | None = None
    alias: str = "challenger"
    fix: bool = False
    deep: bool = False
    columns: dict[str, str] | None = None
    tasks: list[str] | None = None
    step: str | None = None
    pipeline_id: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 5000
    host: str = "127.0.0.1"
    gpus: str | None = None
