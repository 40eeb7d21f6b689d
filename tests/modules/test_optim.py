"""Optimizers: each parameter in one group, plain torch underneath, a state that continues bit for bit."""

import copy
import io
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from modules.heads import LMHead
from modules.layers import LayerSpec
from modules.model import Model
from modules.optim import AdamW, Muon, parameter_groups
from modules.positions import Learned
from modules.transformer import Decoder, Transformer

Builder = AdamW | Muon
BUILDERS: list[Builder] = [AdamW(), Muon()]
by_name = pytest.mark.parametrize("builder", BUILDERS, ids=["adamw", "muon"])


class Backbone(Transformer):
    def __init__(self) -> None:
        nn.Module.__init__(self)  # a Transformer in name only: parameters of every kind, and few
        self.embedding = nn.Embedding(11, 8)
        self.positions = nn.Embedding(5, 8)
        self.wide = nn.Linear(8, 12)
        self.narrow = nn.Linear(12, 8, bias=False)
        self.norm = nn.LayerNorm(8)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        ids = batch["input_ids"]
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1]))
        return self.norm(x + self.narrow(self.wide(x).relu()))


def make_model() -> Model:
    torch.manual_seed(0)
    backbone = Backbone()
    return Model(backbone, LMHead(backbone.embedding, bias=True))


def batches(n: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(11, (3, 5), generator=generator) for _ in range(n)]


def loss_of(model: Model, ids: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model({"input_ids": ids}).flatten(0, 1), ids.flip(1).flatten())


def train(model: Model, optimizer: Optimizer, rows: list[Tensor]) -> None:
    for ids in rows:
        optimizer.zero_grad()
        loss_of(model, ids).backward()
        optimizer.step()


def weights(model: Model) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def test_every_parameter_is_in_the_group_of_its_kind() -> None:
    model = make_model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {key: {names[p] for p in group} for key, group in parameter_groups(model).items()}
    assert groups == {
        "matrices": {"backbone.wide.weight", "backbone.narrow.weight"},
        "embeddings": {"backbone.embedding.weight", "backbone.positions.weight"},
        "scalars": {"backbone.wide.bias", "backbone.norm.weight", "backbone.norm.bias", "head.bias"},
    }


def test_a_tied_weight_is_counted_once_and_as_an_embedding_even_if_a_matrix_comes_first() -> None:
    model = nn.Module()
    model.output = nn.Linear(8, 11, bias=False)
    model.embedding = nn.Embedding(11, 8)
    model.output.weight = model.embedding.weight
    groups = parameter_groups(model)
    assert [len(groups["matrices"]), len(groups["embeddings"])] == [0, 1]


@by_name
def test_groups_have_names_rates_and_decay_on_matrices_only(builder: Builder) -> None:
    groups = builder.build(make_model()).param_groups
    assert [group["name"] for group in groups] == ["matrices", "embeddings", "scalars"]
    assert [g["lr"] for g in groups] == list(builder.rates.values())
    assert [g["weight_decay"] for g in groups] == [builder.weight_decay, 0.0, 0.0]


@by_name
def test_every_trainable_parameter_is_optimized_exactly_once_and_frozen_ones_are_not(
    builder: Builder,
) -> None:
    model = make_model()
    model.backbone.wide.weight.requires_grad_(False)
    optimized = [id(p) for group in builder.build(model).param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@by_name
def test_a_model_with_nothing_to_train_is_refused(builder: Builder) -> None:
    model = make_model().requires_grad_(False)
    with pytest.raises(ValueError, match="is trainable; expected at least one\nhint: unfreeze"):
        builder.build(model)


def test_adamw_takes_the_steps_of_torchs_plain_adamw() -> None:
    builder = AdamW(lr=0.01, embedding_lr=0.02, scalar_lr=0.03)
    ours, reference = make_model(), make_model()
    train(ours, builder.build(ours), batches(5))
    groups = parameter_groups(reference)
    plain = torch.optim.AdamW(
        [
            {"params": groups["matrices"], "lr": 0.01, "weight_decay": 0.1},
            {"params": groups["embeddings"], "lr": 0.02, "weight_decay": 0.0},
            {"params": groups["scalars"], "lr": 0.03, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        foreach=False,
    )
    train(reference, plain, batches(5))
    torch.testing.assert_close(weights(ours), weights(reference))


def test_in_bf16_muon_takes_the_steps_of_torchs_muon_and_of_plain_adamw_beside_it() -> None:
    ours, reference = make_model(), make_model()
    train(ours, Muon(newton_schulz="bf16").build(ours), batches(5))
    groups = parameter_groups(reference)
    muon = torch.optim.Muon(
        groups["matrices"], lr=Muon().lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    rest = [
        {"params": groups["embeddings"], "lr": Muon().rates["embeddings"]},
        {"params": groups["scalars"], "lr": Muon().rates["scalars"]},
    ]
    adamw = torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.95), foreach=False)
    for ids in batches(5):
        reference.zero_grad()
        loss_of(reference, ids).backward()
        muon.step()
        adamw.step()
    torch.testing.assert_close(weights(ours), weights(reference))
    for name in ("backbone.wide.weight", "backbone.narrow.weight"):
        assert torch.equal(weights(ours)[name], weights(reference)[name])


@by_name
@pytest.mark.parametrize("n_before", [1, 4])
def test_training_continues_bit_for_bit_from_a_saved_state(builder: Builder, n_before: int) -> None:
    rows = batches(8)
    straight = make_model()
    train(straight, builder.build(straight), rows)

    first = make_model()
    optimizer = builder.build(first)
    train(first, optimizer, rows[:n_before])
    file = io.BytesIO()
    torch.save({"model": first.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)

    second = make_model()
    resumed = builder.build(second)
    saved = torch.load(file, weights_only=True)
    second.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(second, resumed, rows[n_before:])
    assert_equal(weights(second), weights(straight))
    assert [group["name"] for group in resumed.param_groups] == ["matrices", "embeddings", "scalars"]


@by_name
def test_a_deep_copy_of_model_and_optimizer_goes_on_alone(builder: Builder) -> None:
    model, rows = make_model(), batches(6)
    optimizer = builder.build(model)
    train(model, optimizer, rows[:3])
    other, other_optimizer = copy.deepcopy((model, optimizer))
    train(model, optimizer, rows[3:])
    train(other, other_optimizer, rows[3:])
    assert_equal(weights(other), weights(model))


@by_name
def test_learning_rates_follow_a_scheduler_also_after_loading(builder: Builder) -> None:
    model = make_model()
    optimizer = builder.build(model)
    optimizer.load_state_dict(optimizer.state_dict())
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _step: 0.0)
    before = weights(model)
    train(model, optimizer, batches(2))
    assert_equal(weights(model), before)


@by_name
def test_a_closure_is_called_once_with_gradients_on_before_the_step(builder: Builder) -> None:
    ours, reference = make_model(), make_model()
    (ids,) = batches(1)
    calls: list[bool] = []
    optimizer = builder.build(ours)

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        loss = loss_of(ours, ids)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    train(reference, builder.build(reference), [ids])
    assert calls == [True]
    assert isinstance(loss, Tensor)
    assert_equal(weights(ours), weights(reference))


@by_name
def test_a_gradient_scaler_unscales_before_the_step_and_skips_what_overflowed(builder: Builder) -> None:
    scaled, plain = make_model(), make_model()
    (ids,) = batches(1)
    optimizer = builder.build(scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(scaled, ids)).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(scaled.parameters(), 1e9)
    scaler.step(optimizer)
    scaler.update()
    train(plain, builder.build(plain), [ids])
    torch.testing.assert_close(weights(scaled), weights(plain))

    before = weights(scaled)
    scaler.scale(loss_of(scaled, ids) * float("inf")).backward()
    scaler.step(optimizer)
    assert_equal(weights(scaled), before)


@by_name
def test_lightning_clips_the_gradients_of_float16_training(builder: Builder) -> None:
    model = make_model()
    optimizer = builder.build(model)
    loss_of(model, *batches(1)).backward()
    precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    precision.clip_gradients(optimizer, 0.1)
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert norm.item() == pytest.approx(0.1, rel=1e-3)


class Lit(L.LightningModule):
    def __init__(self, builder: Builder) -> None:
        super().__init__()
        self.model = make_model()
        self.builder = builder

    def training_step(self, ids: Tensor) -> Tensor:
        return loss_of(self.model, ids)

    def configure_optimizers(self) -> Optimizer:
        return self.builder.build(self.model)


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.:FutureWarning")
@by_name
def test_lightning_trains_with_accumulation_and_clipping_as_a_plain_loop_does(builder: Builder) -> None:
    lit, rows = Lit(builder), batches(4)
    trainer = L.Trainer(
        max_epochs=1,
        accelerator="cpu",
        accumulate_grad_batches=2,
        gradient_clip_val=0.1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(lit, DataLoader(rows, batch_size=None))

    plain = make_model()
    optimizer = builder.build(plain)
    for pair in (rows[:2], rows[2:]):
        optimizer.zero_grad()
        for ids in pair:
            (loss_of(plain, ids) / 2).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
    torch.testing.assert_close(weights(lit.model), weights(plain))


@pytest.mark.parametrize("builder", [AdamW(lr=0.02), Muon(lr=0.02)], ids=["adamw", "muon"])
def test_a_batch_is_learned_by_heart(builder: Builder) -> None:
    model, (ids,) = make_model(), batches(1)
    first = loss_of(model, ids).item()
    train(model, builder.build(model), [ids] * 60)
    assert loss_of(model, ids).item() < 0.5 * first


def deep_model() -> Model:
    torch.manual_seed(0)
    layer = LayerSpec(8, n_heads=2, qk_norm=True)
    backbone = Decoder(11, n_layers=3, max_seq_len=8, layer=layer, position=Learned(8, max_seq_len=8))
    return Model(backbone, LMHead(backbone.embedding, bias=True))


# In bf16, how products of small matrices are rounded depends on how many matrices are batched.
by_decaying = pytest.mark.parametrize(
    "builder",
    [AdamW(layer_decay=0.5), Muon(layer_decay=0.5, newton_schulz="fp32")],
    ids=["adamw", "muon"],
)


@by_decaying
def test_with_layer_decay_every_depth_has_its_own_rate_and_every_parameter_one_group(
    builder: Builder,
) -> None:
    model = deep_model()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {
        group["name"]: (group["lr"], group["weight_decay"], sorted(names[p] for p in group["params"]))
        for group in builder.build(model).param_groups
    }
    assert list(groups) == [
        *(f"matrices/0{depth}" for depth in (1, 2, 3)),
        "embeddings/00",
        *(f"scalars/0{depth}" for depth in (1, 2, 3, 4)),
    ]
    assert [groups[f"matrices/0{d}"][:2] for d in (1, 2, 3)] == [
        (pytest.approx(builder.lr * 0.5 ** (4 - d)), builder.weight_decay) for d in (1, 2, 3)
    ]
    assert groups["embeddings/00"] == (
        pytest.approx(builder.rates["embeddings"] / 16),
        0.0,
        ["backbone.embedding.weight", "backbone.position.embedding.weight"],
    )
    assert groups["scalars/04"] == (builder.rates["scalars"], 0.0, ["head.bias"])
    assert "backbone.stack.norm.weight" in groups["scalars/03"][2]
    assert sorted(name for _, _, members in groups.values() for name in members) == sorted(names.values())


@by_decaying
def test_a_layer_decay_of_1_changes_nothing(builder: Builder) -> None:
    plain, decayed = deep_model(), deep_model()
    train(plain, replace(builder, layer_decay=None).build(plain), batches(4))
    train(decayed, replace(builder, layer_decay=1.0).build(decayed), batches(4))
    torch.testing.assert_close(weights(decayed), weights(plain))


@by_decaying
def test_with_layer_decay_training_continues_bit_for_bit_from_a_saved_state(builder: Builder) -> None:
    straight, first, second = deep_model(), deep_model(), deep_model()
    train(straight, builder.build(straight), batches(6))
    optimizer = builder.build(first)
    train(first, optimizer, batches(6)[:2])
    resumed = builder.build(second)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    second.load_state_dict(first.state_dict())
    train(second, resumed, batches(6)[2:])
    assert_equal(weights(second), weights(straight))
    assert [g["name"] for g in resumed.param_groups] == [g["name"] for g in optimizer.param_groups]


@pytest.mark.parametrize("builder", [AdamW, Muon])
@pytest.mark.parametrize("layer_decay", [0.0, -1.0, 1.5])
def test_an_impossible_layer_decay_is_refused(builder: type[Builder], layer_decay: float) -> None:
    with pytest.raises(
        ValueError, match=rf"layer_decay is {layer_decay}; expected more than 0 and at most 1"
    ):
        builder(layer_decay=layer_decay)


@pytest.mark.parametrize("builder", [AdamW, Muon])
def test_one_rate_moves_all_three_and_each_can_be_given(builder: type[Builder]) -> None:
    assert builder(lr=0.004).rates == {"matrices": 0.004, "embeddings": 0.05, "scalars": 0.01}
    assert builder(lr=0.001).rates["embeddings"] == 0.0125
    given = builder(lr=0.1, embedding_lr=0.0, scalar_lr=0.2)
    assert given.rates == {"matrices": 0.1, "embeddings": 0.0, "scalars": 0.2}


@pytest.mark.parametrize("name", ["lr", "embedding_lr", "scalar_lr"])
def test_a_negative_learning_rate_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is -0\.1; expected 0 or more"):
        Muon(**{name: -0.1})


def test_layer_decay_needs_a_model_whose_layers_are_known() -> None:
    with pytest.raises(ValueError, match=r"the model is a Linear; expected a modules\.model\.Model"):
        AdamW(layer_decay=0.9).build(nn.Linear(3, 3))


def test_matrices_are_updated_at_least_at_every_step() -> None:
    with pytest.raises(ValueError, match="update_every is 0; expected 1 or more"):
        Muon(update_every=0)


def test_a_frequency_that_only_a_command_can_choose_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="update_every is auto; expected a number of steps"):
        Muon(update_every="auto").build(nn.Linear(3, 3))
