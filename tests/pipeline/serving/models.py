"""Small models to be served, made without training, and a server of this process that serves them."""

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.tokenizer import Bytes
from modules.heads import LMHead, PooledClassifier, SpanHead
from modules.init import initialize
from modules.layers import LayerSpec
from modules.model import Model
from modules.positions import Rotary
from modules.transformer import Decoder, EncoderDecoder, Transformer
from pipeline.runs.bundle import Bundle
from pipeline.serving.options import ServingOptions
from pipeline.serving.served import ServedModel
from pipeline.serving.server import Server, bind
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.chat import Dialogue
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.qa import ExtractiveQA
from pipeline.tasks.translate import Translation

TOKENIZER = Bytes().train([])
LIMIT = 96
LABELS = ["good", "bad", "neither"]

TASKS: Mapping[str, tuple[Any, type[Transformer]]] = {
    "causal_lm": (CausalLM(), Decoder),
    "chat": (Dialogue(max_reply_tokens=24), Decoder),
    "classify": (TextClassification(label_names=LABELS, optional_read=[]), Decoder),
    "qa": (ExtractiveQA(both_directions=False, mark_question_words=False), Decoder),
    "translate": (Translation(target_languages=["de", "zh"], max_target_tokens=8), EncoderDecoder),
}


def served(
    name: str, *, task: Any = None, version: str | None = None, seed: int = 0, tokenizer: Any = TOKENIZER
) -> ServedModel:
    """A model with first weights, as a bundle of the task of this name."""
    torch.manual_seed(seed)
    usual, kind = TASKS[name]
    task = usual if task is None else task
    backbone = kind(
        tokenizer.vocab_size,
        n_layers=2,
        max_seq_len=LIMIT,
        layer=LayerSpec(32, n_heads=2, norm="rms", qk_norm=True),
        position=Rotary(),
    )
    head: torch.nn.Module = LMHead(backbone.output_embedding, softcap=15.0)
    if name in ("classify", "qa"):
        options = task.head(backbone)
        options.pop("_target_")
        head = (PooledClassifier if name == "classify" else SpanHead)(**options)
    model = Model(backbone, head)
    initialize(model, "default")
    with torch.no_grad():  # so that what is written depends on all that stands before it
        for parameter_name, weight in model.named_parameters():
            if "proj" in parameter_name or "ffn" in parameter_name:
                weight.normal_(std=0.3)
    bundle = Bundle(
        folder=Path("runs") / name / "bundles/best",
        model=model.eval(),
        tokenizer=tokenizer,
        task=task,
        model_config={},
        task_config={},
        config={"choices": {"task": name}, "data": {"_target_": "datamodules.storyworld.world.StoryWorld"}},
        provenance={"run": name},
        metrics={},
    )
    return ServedModel(
        name=name, spec=name, bundle=bundle, digest=f"{seed:064d}", description="a model", version=version
    )


@dataclass
class Running:
    """A server that answers."""

    url: str
    port: int
    server: Server
    thread: threading.Thread
    said: list[tuple[str, str]]
    problem: BaseException | None = None


@contextmanager
def serving(
    models: Sequence[ServedModel],
    *,
    host: str = "127.0.0.1",
    token: str | None = None,
    follower: Any = None,
    **options: Any,
) -> Iterator[Running]:
    """A server in a thread; ended in order afterwards."""
    ready, said = threading.Event(), list[tuple[str, str]]()
    listener = bind("127.0.0.1", 0)
    server = Server(
        models,
        ServingOptions(**options),
        host=host,
        token=token,
        follower=follower,
        say=lambda topic, text: said.append((topic, text)),
        ready=ready.set,
    )
    port = listener.getsockname()[1]

    def work() -> None:
        try:
            asyncio.run(server.serve([listener]))
        except BaseException as error:
            running.problem = error
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    running = Running(f"http://127.0.0.1:{port}", port, server, thread, said)
    thread.start()
    assert ready.wait(60)
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
        listener.close()
