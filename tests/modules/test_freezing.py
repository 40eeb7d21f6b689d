"""Depths of parameters, and what freezing below a depth leaves unmoved."""

import pytest
import torch
from torch import Tensor, nn

from modules.freezing import depth_of_parameters, freeze
from modules.heads import LMHead, PooledClassifier
from modules.layers import LayerSpec
from modules.model import Model
from modules.optim import AdamW, Muon
from modules.positions import Learned
from modules.transformer import Decoder, Encoder, EncoderDecoder

Builder = AdamW | Muon
by_name = pytest.mark.parametrize("builder", [AdamW(), Muon(), AdamW(layer_decay=0.8)])


def make_model(kind: type[Encoder | Decoder | EncoderDecoder] = Encoder, **options: object) -> Model:
    torch.manual_seed(0)
    backbone = kind(
        11,
        n_layers=2,
        max_seq_len=8,
        layer=LayerSpec(8, n_heads=2, bias=True),
        position=Learned(8, max_seq_len=8),
        **options,
    )
    return Model(backbone, PooledClassifier(8, n_classes=3))


def part_of(name: str) -> str:
    """`backbone.stack.layers.0.ffn.up_proj.bias` -> `backbone.stack.layers.0`."""
    words = name.split(".")
    return ".".join(words[: 4 if "layers" in words else -1])


def depths_by_part(model: Model) -> dict[str, set[int]]:
    parts: dict[str, set[int]] = {}
    for name, depth in depth_of_parameters(model).items():
        parts.setdefault(part_of(name), set()).add(depth)
    return parts


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_depth_counts_from_the_embedding_over_the_layers_to_the_head(kind: type[Encoder | Decoder]) -> None:
    assert depths_by_part(make_model(kind)) == {
        "backbone.embedding": {0},
        "backbone.position.embedding": {0},
        "backbone.stack.layers.0": {1},
        "backbone.stack.layers.1": {2},
        "backbone.stack.norm": {2},
        "head.classes": {3},
    }


def test_the_layers_of_a_decoder_stand_above_those_of_its_encoder() -> None:
    model = make_model(EncoderDecoder, n_encoder_layers=3, tied_embeddings=False)
    assert depths_by_part(model) == {
        "backbone.embedding": {0},
        "backbone.target_embedding": {0},
        "backbone.position.embedding": {0},
        "backbone.encoder.layers.0": {1},
        "backbone.encoder.layers.1": {2},
        "backbone.encoder.layers.2": {3},
        "backbone.encoder.norm": {3},
        "backbone.decoder.layers.0": {4},
        "backbone.decoder.layers.1": {5},
        "backbone.decoder.norm": {5},
        "head.classes": {6},
    }


def test_a_tied_head_owns_no_embedding() -> None:
    backbone = make_model(Decoder).backbone
    depths = depth_of_parameters(Model(backbone, LMHead(backbone.embedding)))
    assert depths["backbone.embedding.weight"] == 0
    assert max(depths.values()) == 2


@pytest.mark.parametrize("depth", range(4))
def test_what_stands_at_the_depth_or_above_is_trained_and_only_that(depth: int) -> None:
    model = make_model()
    freeze(model, 3)
    freeze(model, depth)
    depths = depth_of_parameters(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in depths if depths[name] >= depth}


@pytest.mark.parametrize("depth", [-1, 4])
def test_a_depth_that_leaves_nothing_to_train_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth {depth} leaves nothing to train; expected from 0 .* to 3"):
        freeze(make_model(), depth)


def train(model: Model, optimizer: torch.optim.Optimizer, n_steps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        ids = torch.randint(11, (4, 6), generator=generator)
        nn.functional.cross_entropy(model({"input_ids": ids}), ids[:, 0] % 3).backward()
        optimizer.step()


def weights(model: Model) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@by_name
def test_frozen_weights_do_not_move_by_a_bit_and_move_once_they_are_trained_again(builder: Builder) -> None:
    model = make_model()
    optimizer = builder.build(model)
    depths = depth_of_parameters(model)
    train(model, optimizer, 2)  # momentum and second moments are there, and would move them
    for depth in (3, 2, 0):
        freeze(model, depth)
        before = weights(model)
        train(model, optimizer, 3)
        moved = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
        assert moved == {name for name in depths if depths[name] >= depth}


@by_name
def test_a_gradient_from_before_the_freezing_is_forgotten(builder: Builder) -> None:
    model = make_model()
    optimizer = builder.build(model)
    nn.functional.cross_entropy(
        model({"input_ids": torch.ones(2, 3).long()}), torch.tensor([0, 1])
    ).backward()
    before = weights(model)
    freeze(model, 3)
    optimizer.step()
    after = weights(model)
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("head"))
    assert not torch.equal(after["head.classes.weight"], before["head.classes.weight"])
