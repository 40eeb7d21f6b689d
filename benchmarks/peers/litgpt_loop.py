"""The model and the training loop of litgpt, in a separate environment; run by `benchmarks.peers.process`.

    .venv-litgpt/bin/python benchmarks/peers/litgpt_loop.py '{"n_layers": 4, ...}' bf16-mixed

It reads one number of steps per line from standard input, and prints the seconds that they took. The body of
the loop of `litgpt pretrain` is timed: Fabric, a compiled model, chunked cross-entropy, clipping, AdamW.
"""

import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from litgpt.model import GPT, Config
from litgpt.utils import chunked_cross_entropy


def build(shape: Mapping[str, int], precision: Any) -> tuple[L.Fabric, Any, Any]:
    """Return Fabric, the compiled model and its optimizer."""
    torch.manual_seed(0)
    fabric = L.Fabric(devices=1, precision=precision)
    config = Config(
        n_layer=shape["n_layers"],
        n_embd=shape["d_model"],
        n_head=shape["n_heads"],
        block_size=shape["block"],
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        rotary_percentage=1.0,
        bias=False,
        parallel_residual=False,
        norm_class_name="RMSNorm",
    )
    compiled: Any = torch.compile(GPT(config))
    model = fabric.setup(compiled)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), fused=True
    )
    return fabric, model, fabric.setup_optimizers(optimizer)


def step(fabric: L.Fabric, model: Any, optimizer: Any, ids: torch.Tensor, labels: torch.Tensor) -> None:
    """Make one step on ids and labels (B, T)."""
    loss = chunked_cross_entropy(model(ids), labels)
    fabric.backward(loss)
    fabric.clip_gradients(model, optimizer, max_norm=1.0)
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    """Train with the shape on the command line, for the steps read from standard input."""
    shape, precision = json.loads(sys.argv[1]), sys.argv[2]
    fabric, model, optimizer = build(shape, precision)
    rows = torch.randint(shape["vocab_size"], (64, shape["block"] + 1), device=fabric.device)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            batch = rows[torch.randint(len(rows), (shape["batch"],), device=fabric.device)]
            step(fabric, model, optimizer, batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
