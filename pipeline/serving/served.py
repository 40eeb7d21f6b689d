"""A served model: a bundle in memory, with its name and origin."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modules.continuous import DecodingBatch
from pipeline.errors import BundleError
from pipeline.machine.options import TrainerOptions
from pipeline.registry.versions import Version
from pipeline.runs import bundle as bundles
from pipeline.runs.bundle import Bundle
from pipeline.runs.placing import place
from pipeline.runs.start import check_has_head
from pipeline.tasks.base import forbidden_ids
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.chat import Dialogue, dialogue_of
from pipeline.tasks.finetuning import FinetuneTask

_ENDPOINT = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedModel:
    """A bundle that answers requests.

    Args:
        name: the name of the model in requests.
        spec: how the user named it when starting the server.
        bundle: the bundle, with its weights in memory.
        digest: the digest of the bundle.
        description: its architecture and size, for the user.
        version: the version of the registered model; None: it is served from a run or a folder.
        loaded: when it was loaded, in Unix time.
    """

    name: str
    spec: str
    bundle: Bundle
    digest: str
    description: str
    version: str | None = None
    loaded: int = field(default_factory=lambda: int(time.time()))

    @property
    def task(self) -> Any:
        """The task of the bundle."""
        return self.bundle.task

    @property
    def endpoint(self) -> str | None:
        """The last part of its URL, /v1/ENDPOINT; None for a model that was only pretrained."""
        if not isinstance(self.task, FinetuneTask):
            return None
        return self.task.endpoint or str(self.bundle.config["choices"]["task"])

    @property
    def writes(self) -> bool:
        """Whether it generates token by token: continues a text, or replies in a dialogue."""
        return isinstance(self.task, CausalLM | Dialogue)

    @property
    def dialogue(self) -> Dialogue | None:
        """The task that replies, if it can."""
        return dialogue_of(self.task, self.bundle.tokenizer)

    @property
    def limit(self) -> int:
        """The context length of the backbone in tokens."""
        return self.bundle.model.backbone.max_seq_len

    @property
    def headers(self) -> dict[str, str]:
        """The response headers that identify the model."""
        headers = {"X-Prelude-Model": self.name, "X-Prelude-Bundle": self.digest}
        return headers if self.version is None else headers | {"X-Prelude-Version": self.version}

    @property
    def lineage(self) -> str:
        """The command that traces the model back to its files, commit and seed."""
        named = self.bundle.folder if self.version is None else f"{self.name}/{self.version}"
        return f"make lineage MODEL={named}"

    def decoding(self) -> DecodingBatch[Any]:
        """Return an empty batch for generating text with the model."""
        tokenizer = self.bundle.tokenizer
        return DecodingBatch(
            self.bundle.model,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            forbidden_ids=forbidden_ids(tokenizer),
        )


def load_served(
    spec: str, folder: Path, version: Version | None = None, *, quantization: str | None = None
) -> ServedModel:
    """Load a bundle onto the device of this machine, with 8-bit weights if they are requested.

    Raises:
        ArgumentError: 8-bit weights are not supported on this machine.
        BundleError: the bundle is missing, unfinished, damaged, or cannot answer requests.
    """
    bundle = bundles.load_bundle(folder)
    check_has_head(bundle)
    description = place(bundle.model, TrainerOptions(), quantization)
    digest = bundles.digest(folder)
    if version is not None and digest != version.digest:
        raise BundleError(
            f"{folder} is not the bundle of {version.title}",
            f"digest {version.digest[:12]}…",
            "restore the bundle, or register it again with `make register`",
        )
    served = ServedModel(
        name=str(bundle.provenance["run"]) if version is None else version.name,
        spec=spec,
        bundle=bundle,
        digest=digest,
        description=description,
        version=None if version is None else version.number,
    )
    if served.endpoint is None and not served.writes:
        raise BundleError(
            f"{folder} only fills gaps in a text",
            "a bundle that continues text, or a fine-tuned one",
            "serve a bundle of `make pretrain` or `make finetune-TASK`",
        )
    if served.endpoint is not None and not _ENDPOINT.fullmatch(served.endpoint):
        raise BundleError(
            f"{folder / 'config.yaml'} names a task that cannot be part of a URL",
            "lower-case letters, digits and _",
            "restore the bundle from a copy",
        )
    return served
