"""The model card: what it says, in which form, and that nothing of a file breaks out of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from pipeline.card import MLFLOW_CHARACTERS, CardFacts, card_body, escaped, folder_facts, model_card
from pipeline.config.tasks import finetuning_tasks
from pipeline.interop.hub import stated_licence
from pipeline.tasks.base import GAP, PretrainingTask
from pipeline.tasks.causal_lm import CausalLM
from pipeline.tasks.classify import TextClassification
from pipeline.tasks.denoise import SpanDenoising
from pipeline.tasks.finetuning import FinetuneTask, Prediction
from pipeline.tasks.masked_lm import MaskedLM

BUNDLE = Path(__file__).parents[1] / "fixtures" / "version_0_1" / "old-classify" / "bundles" / "best"


@pytest.fixture
def facts() -> CardFacts:
    return CardFacts(
        provenance={
            "run": "good-one",
            "stage": "finetune",
            "seed": 7,
            "step": 20,
            "cost": {"seconds": 61.4, "tokens": 1234567, "parameters": 789900},
            "code": {"git_commit": "abc123", "cpu": "A processor", "torch": "2.13"},
            "corpus": {
                "name": "reviews",
                "fingerprint": "f" * 64,
                "sources": [{"uri": "a|b.csv", "sha256": "e" * 64, "n_bytes": 1000, "split": "train"}],
            },
            "measured_on": {"corpus": "reviews", "split": "test", "chose_weights": False, "rows": 200},
            "notes": {"accuracy": "exact labels"},
            "parent": {"run": "before", "digest": "d" * 64},
        },
        metrics={"test/accuracy": 0.9512, "test/accuracy_low": 0.93, "test/accuracy_high": 0.97},
        config={"choices": {"task": "classify"}},
        task={"_target_": "pipeline.tasks.classify.task.TextClassification", "label_names": ["a", "b"]},
        model={"backbone": {"_target_": "modules.transformer.Decoder", "max_seq_len": 256}},
        made_for=TextClassification(label_names=["a", "b"]),
    )


def test_the_card_tells_data_metrics_cost_limits_and_use(facts: CardFacts) -> None:
    text = model_card(facts)
    for part in (
        "| test/accuracy | 0.9512 | 0.93 to 0.97 | exact labels |",
        "Measured on 200 test rows of reviews.",
        f"| train | a\\|b.csv | {'e' * 16} | 1,000 |",
        "789,900 parameters",
        "- time: 61 s",
        "- tokens read: 1,234,567",
        "- processor: A processor",
        "reads at most 256 tokens",
        "make predict-classify BUNDLE=good-one INPUT=rows.jsonl",
        'bundle = load_bundle("good-one")',
        "curl http://127.0.0.1:8000/",
        "- started from: before",
        "not been examined for bias",
    ):
        assert part.replace("/", "/") in text.replace("\\_", "_"), part


@pytest.mark.parametrize("kind", [*finetuning_tasks().values(), CausalLM, MaskedLM, SpanDenoising])
def test_the_python_of_a_card_is_complete_for_every_task(
    facts: CardFacts, kind: type[FinetuneTask | PretrainingTask]
) -> None:
    task, asked = kind(), list[object]()
    told = model_card(replace(facts, made_for=task)).partition("```python\n")[2].partition("```")[0]
    start, _, rest = told.partition("\n")
    assert start == "from pipeline import load_bundle"
    exec(rest, {"load_bundle": lambda name: Asked(asked)})
    (given,) = asked
    if isinstance(task, FinetuneTask):
        assert given == task.example_row
    else:
        assert (GAP in str(given)) == task.fills_gaps


class Asked:
    """Stands for a bundle: keeps what it is asked."""

    def __init__(self, asked: list[object]) -> None:
        self.asked = asked

    def predict(self, rows: list[object]) -> list[Prediction]:
        self.asked += rows
        return [Prediction(text="")] * len(rows)

    def generate(self, prompt: str) -> str:
        self.asked.append(prompt)
        return prompt


def test_an_imported_model_tells_its_source_and_that_nothing_is_known_of_its_training(
    facts: CardFacts,
) -> None:
    origin = {"from": "some/model", "model_type": "bert", "licence": None, "sources": []}
    bare = replace(
        facts,
        provenance={"run": "there", "stage": "import", "imported": origin},
        metrics={},
        model={**facts.model, "head": {"_target_": "modules.heads.NoHead"}},
        made_for=MaskedLM(),
    )
    text = model_card(bare)
    assert "imported from some/model (bert). It has no head" in text.replace("\\_", "_")
    assert "Licence of the source: not stated in the files" in text
    assert "make finetune-classify INIT=there" in text
    assert "make generate" not in text
    assert (
        ModelCard(
            model_card(
                replace(bare, provenance={**bare.provenance, "imported": {**origin, "licence": "mit"}})
            )
        ).data.license
        == "mit"
    )


@pytest.mark.parametrize(
    ("page", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: {\n---\n", None),
        ("---\n- a\n---\n", None),
        ("license: mit", None),
        ("\udcff", None),
        (None, None),
    ],
)
def test_a_licence_is_what_the_head_of_a_readme_names(
    tmp_path: Path, page: str | None, licence: str | None
) -> None:
    if page is not None:
        (tmp_path / "README.md").write_bytes(page.encode(errors="surrogateescape"))
    assert stated_licence(tmp_path) == licence


def test_the_head_is_what_model_hubs_read(facts: CardFacts) -> None:
    data = ModelCard(model_card(facts)).data
    assert data.pipeline_tag == "text-classification"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9512)
    assert (result.dataset_name, result.dataset_split) == ("reviews", "test")


def test_figures_of_privacy_and_safety_are_told_where_they_exist(facts: CardFacts) -> None:
    assert "## Safety and privacy" not in card_body(facts)
    text = card_body(replace(facts, metrics={**facts.metrics, "privacy/epsilon": 8.0}))
    assert "- privacy/epsilon: 8" in text
    assert "Memorization of its training texts" not in text


@pytest.mark.parametrize("evil", ["<script>x</script>", "[a](http://x)", "a | b\n# c", "`x` **y** ![z](w)"])
def test_names_of_files_and_labels_are_shown_as_they_are_and_are_no_markdown(
    facts: CardFacts, evil: str
) -> None:
    from markdown_it import MarkdownIt

    shown = MarkdownIt().render(card_body(replace(facts, task={**facts.task, "label_names": [evil]})))
    assert "<script" not in shown
    assert 'http://x"' not in shown
    assert "<img" not in shown


def test_mlflow_gets_as_many_whole_sections_as_it_keeps(facts: CardFacts) -> None:
    long = replace(facts, metrics={f"test/metric{i}": 0.5 for i in range(400)})
    text = card_body(long, most=MLFLOW_CHARACTERS)
    assert len(text) <= MLFLOW_CHARACTERS
    assert "## Metrics" not in text
    assert "## Limits" in text
    assert escaped("a*b") == "a\\*b"


def test_a_bundle_of_an_earlier_version_without_a_card_can_be_given_one(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(BUNDLE, folder)
    text = model_card(folder_facts(folder))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert any(name.replace("_", "\\_") in text for name in metrics)
    assert "TextClassification" in text
