"""Metrics are sums over tokens: equal to their definitions whatever the batches and the processes."""

import math
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
import torchmetrics.text
from torch import Tensor, nn
from torchmetrics import MetricCollection

from modules.heads import LMHead
from modules.losses import IGNORE_INDEX
from modules.metrics import (
    BitsPerByte,
    MeanLoss,
    Perplexity,
    RowLoss,
    TokenAccuracy,
    TokenLoss,
    token_scores,
)

D, V = 8, 13
TOKEN_BYTES = torch.tensor([5, 0, 1, 1, 2, 3, 1, 4, 1, 2, 7, 1, 3])

Case = tuple[Tensor, Tensor]


def make_head() -> LMHead:
    weight = torch.randn(V, D, generator=torch.Generator().manual_seed(1))
    return LMHead(nn.Embedding.from_pretrained(weight), softcap=5.0)


def make_case(n_rows: int, n_steps: int, seed: int) -> Case:
    torch.manual_seed(seed)
    labels = torch.randint(V, (n_rows, n_steps))
    hidden = torch.randn(n_rows, n_steps, D)
    known = torch.rand(n_rows, n_steps) < 0.7
    hidden[known] += 2 * make_head().weight.detach()[labels[known]]
    labels[torch.rand(n_rows, n_steps) < 0.3] = IGNORE_INDEX
    return hidden, labels


UNEQUAL = [make_case(2, 9, 2), make_case(5, 3, 3), make_case(1, 1, 4)]


def make_metrics() -> MetricCollection:
    return MetricCollection(
        {
            "loss": TokenLoss(),
            "perplexity": Perplexity(),
            "bits_per_byte": BitsPerByte(TOKEN_BYTES),
            "accuracy": TokenAccuracy(),
        }
    )


def feed(metrics: MetricCollection, head: nn.Module, case: Case) -> None:
    hidden, labels = case
    index = (labels.flatten() != IGNORE_INDEX).nonzero().flatten()
    scores = token_scores(hidden, head, labels, index, chunk_tokens=4)
    metrics.update(**scores._asdict(), labels=labels)


def values_by_definition(head: nn.Module, cases: list[Case]) -> dict[str, Tensor]:
    """All tokens in one list, all logits at once."""
    with torch.no_grad():
        logits = torch.cat([head(hidden.flatten(0, 1)) for hidden, _ in cases])
    labels = torch.cat([labels.flatten() for _, labels in cases])
    logits, labels = logits[labels != IGNORE_INDEX], labels[labels != IGNORE_INDEX]
    nats = F.cross_entropy(logits, labels, reduction="none")
    n_bytes = sum(int(TOKEN_BYTES[label]) for label in labels)
    return {
        "loss": nats.mean(),
        "perplexity": nats.mean().exp(),
        "bits_per_byte": nats.sum() / math.log(2) / n_bytes,
        "accuracy": (logits.argmax(-1) == labels).float().mean(),
    }


def test_metrics_over_unequal_batches_are_those_over_all_tokens() -> None:
    head, metrics = make_head(), make_metrics()
    for case in UNEQUAL:
        feed(metrics, head, case)
    torch.testing.assert_close(metrics.compute(), values_by_definition(head, UNEQUAL))


def test_a_reset_forgets_everything_but_the_bytes_of_tokens() -> None:
    head, metrics = make_head(), make_metrics()
    feed(metrics, head, UNEQUAL[0])
    metrics.reset()
    feed(metrics, head, UNEQUAL[1])
    torch.testing.assert_close(metrics.compute(), values_by_definition(head, UNEQUAL[1:2]))


def test_clones_with_a_prefix_count_apart() -> None:
    head, metrics = make_head(), make_metrics()
    validation, test = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
    feed(validation, head, UNEQUAL[0])
    feed(test, head, UNEQUAL[1])
    expected = {f"val/{name}": value for name, value in values_by_definition(head, UNEQUAL[:1]).items()}
    torch.testing.assert_close(validation.compute(), expected)


def test_perplexity_is_that_of_torchmetrics() -> None:
    head, metric = make_head(), Perplexity()
    reference = torchmetrics.text.Perplexity(ignore_index=IGNORE_INDEX)
    for hidden, labels in UNEQUAL:
        nats, n_tokens, *_ = token_scores(hidden, head, labels)
        metric.update(nats, n_tokens)
        with torch.no_grad():
            reference.update(head(hidden), labels)
    torch.testing.assert_close(metric.compute(), reference.compute())


@pytest.mark.parametrize("chunk_tokens", [1, 4, 1000])
@pytest.mark.parametrize("with_index", [True, False])
def test_scores_do_not_depend_on_chunks_or_on_the_index(chunk_tokens: int, with_index: bool) -> None:
    head, (hidden, labels) = make_head(), UNEQUAL[0]
    index = (labels.flatten() != IGNORE_INDEX).nonzero().flatten() if with_index else None
    scores = token_scores(hidden, head, labels, index, chunk_tokens=chunk_tokens)
    expected = values_by_definition(head, UNEQUAL[:1])
    assert scores.n_tokens == (labels != IGNORE_INDEX).sum()
    torch.testing.assert_close(scores.nats / scores.n_tokens, expected["loss"])
    torch.testing.assert_close(scores.n_correct / scores.n_tokens, expected["accuracy"])


@pytest.mark.parametrize("with_index", [True, False])
def test_the_loss_of_each_row_is_that_of_the_row_alone(with_index: bool) -> None:
    head, metric = make_head(), RowLoss()
    for hidden, labels in UNEQUAL:
        index = (labels.flatten() != IGNORE_INDEX).nonzero().flatten() if with_index else None
        metric.update(token_scores(hidden, head, labels, index, chunk_tokens=4).row_nats, labels)
    alone = [
        token_scores(hidden[i : i + 1], head, labels[i : i + 1])[:2]
        for hidden, labels in UNEQUAL
        for i in range(len(labels))
    ]
    torch.testing.assert_close(metric.compute(), torch.tensor(alone))


def test_scores_never_hold_the_logits_of_more_than_one_chunk() -> None:
    head, (hidden, labels) = make_head(), UNEQUAL[0]
    n_rows: list[int] = []
    head.register_forward_hook(lambda _module, inputs, _logits: n_rows.append(inputs[0].shape[0]))
    scores = token_scores(hidden, head, labels, chunk_tokens=4)
    assert max(n_rows) == 4
    assert not scores.nats.requires_grad


def test_uniform_logits_over_bytes_cost_log2_v_bits_for_each_byte() -> None:
    text = "The lantern, 灯笼 and 🏮.".encode()
    labels = torch.tensor([list(text)])
    head = LMHead(nn.Embedding(256, D))
    nn.init.zeros_(head.weight)
    metric = BitsPerByte(torch.ones(256, dtype=torch.int64))
    metric.update(token_scores(torch.randn(1, len(text), D), head, labels).nats, labels)
    assert metric.compute().item() == pytest.approx(8.0)


def test_a_label_without_text_adds_its_bits_and_no_bytes() -> None:
    metric = BitsPerByte(torch.tensor([0, 2]))
    metric.update(torch.tensor(3 * math.log(2)), torch.tensor([[1, 0, IGNORE_INDEX]]))
    assert metric.compute().item() == pytest.approx(1.5)


def test_bits_per_byte_of_real_text_is_its_definition_by_hand() -> None:
    file = Path(os.environ.get("PRELUDE_DATA", "")) / "tinyshakespeare" / "validation.txt"
    if not file.exists():
        pytest.skip("PRELUDE_DATA has no tinyshakespeare")
    words = file.read_text(encoding="utf-8")[:4000].split(" ")
    vocabulary = {word: i for i, word in enumerate(sorted(set(words)))}
    n_bytes = torch.tensor([len(f"{word} ".encode()) for word in vocabulary])
    labels = torch.tensor([[vocabulary[word] for word in words]])
    torch.manual_seed(0)
    head, hidden = LMHead(nn.Embedding(len(vocabulary), D)), torch.randn(1, len(words), D)
    metric = BitsPerByte(n_bytes)
    for part in (slice(0, 100), slice(100, None)):
        metric.update(token_scores(hidden[:, part], head, labels[:, part]).nats, labels[:, part])
    with torch.no_grad():
        log2_p = head(hidden)[0].double().log_softmax(-1) / math.log(2)
    bits = -sum(log2_p[i, label].item() for i, label in enumerate(labels[0].tolist()))
    assert metric.compute().item() == pytest.approx(bits / len((" ".join(words) + " ").encode()), rel=1e-5)


def test_nothing_labelled_is_not_a_number_rather_than_a_good_score() -> None:
    metrics = make_metrics()
    feed(metrics, make_head(), (torch.randn(1, 2, D), torch.full((1, 2), IGNORE_INDEX)))
    assert all(value.isnan() for value in metrics.compute().values())


def _score_as_one_of_two(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    metrics = make_metrics()
    for case in UNEQUAL[:1] if rank == 0 else UNEQUAL[1:]:
        feed(metrics, make_head(), case)
    torch.save(metrics.compute(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_batches_get_the_metrics_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_score_as_one_of_two, args=(port, str(tmp_path)), nprocs=2)
    expected = values_by_definition(make_head(), UNEQUAL)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), expected)


def test_a_mean_loss_weighs_batches_by_their_size() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor(6.0), 3)
    metric.update(nats=torch.tensor(1.0), n=1)
    assert metric.compute().item() == pytest.approx(7 / 4)
