"""The model and the training loop of litgpt, in a separate environment; run by `benchmarks.peers.process`.

    .venv-litgpt/bin/python benchmarks/peers/litgpt_loop.py '{"n_layers": 4, ...}' bf16-mixed

It reads one number of steps per line from standard input, and prints the seconds that they took. The body of
the loop of `litgpt pretrain` is timed: Fabric, a compiled model, chunked cross-entropy, clipping, AdamW.
"""

import json
import sys
import time

import lightning as L
import torch
from litgpt.model import GPT, Config
from litgpt.utils import chunked_cross_entropy


def main() -> None:
    """Train with the shape on the command line, for the steps read from standard input."""
    shape, precision = json.loads(sys.argv[1]), sys.argv[2]
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
    model = fabric.setup(torch.compile(GPT(config)))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), fused=True
    )
    optimizer = fabric.setup_optimizers(optimizer)
    rows = torch.randint(shape["vocab_size"], (64, shape["block"] + 1), device=fabric.device)
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            batch = rows[torch.randint(len(rows), (shape["batch"],), device=fabric.device)]
            loss = chunked_cross_entropy(model(batch[:, :-1].contiguous()), batch[:, 1:].contiguous())
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            optimizer.zero_grad()
        if fabric.device.type == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
