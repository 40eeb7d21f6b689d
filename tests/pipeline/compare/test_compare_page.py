"""The page: whole, by itself, and nothing in it that a run's texts could turn into code."""

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.compare.comparison import compare_runs
from pipeline.compare.facts import read_facts
from pipeline.compare.page import render_page
from pipeline.compare.select import select_runs
from pipeline.compare.tables import cost_table
from pipeline.compare.wording import metric_words
from pipeline.report import samples_markdown
from pipeline.stages.compare import mlflow_url
from pipeline.tasks.base import Sample
from tests.pipeline.compare.folders import make_run

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Parser(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(runs: Path, *names: str, url: str | None = None) -> tuple[str, Parser]:
    comparison = compare_runs([read_facts(run) for run in select_runs(names, runs)])
    text = render_page(comparison, mlflow_url=url, at=AT)
    parser = Parser()
    parser.feed(text)
    return text, parser


def keep_samples(folder: Path, *samples: Sample) -> None:
    file = folder / "tracking" / "files" / "samples" / "test.md"
    file.parent.mkdir(parents=True)
    file.write_text(samples_markdown(samples), encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    make_run(tmp_path, "a", scores=[1, 1, 1, 0], run_id="1a", config={"seed": 1})
    make_run(tmp_path, "b", scores=[0, 1, 0, 0], run_id="2b", config={"seed": 2})
    return tmp_path


def test_the_page_needs_no_network_no_script_and_no_other_file(runs: Path) -> None:
    text, page = page_of(runs, "a", "b", url="http://127.0.0.1:5000/#/compare-runs")
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert {address for address in page.addresses if not address.startswith("#")} == {
        "http://127.0.0.1:5000/#/compare-runs"
    }
    assert not re.search(r"@import|url\((?!#)", text)


def test_the_page_shows_verdict_metrics_curves_cost_and_settings(runs: Path) -> None:
    _, page = page_of(runs, "a", "b")
    for words in (
        "a and b do not differ significantly on fewer than 30 rows",
        "0.7500 [0.6500, 0.8500]",
        "p = ",
        "seed",
        "tokens",
        "training loss",
    ):
        assert words in page.text, words
    assert page.tags.count("svg") == 2


@pytest.mark.slow
def test_green_is_only_what_is_significantly_better_than_every_other_run(tmp_path: Path) -> None:
    for name, n_right in (("good", 90), ("fair", 60), ("equal", 61)):
        make_run(tmp_path, name, scores=[1.0] * n_right + [0.0] * (100 - n_right))
    for names, n_green in ((("good", "fair"), 1), (("fair", "equal"), 0), (("good", "fair", "equal"), 1)):
        text, page = page_of(tmp_path, *names)
        assert text.count('class="num best"') == n_green, names
        assert ("A is significantly better" in page.text) == bool(n_green)
    make_run(tmp_path, "alone", scores=None, metrics={"val/loss": 1.0})
    make_run(tmp_path, "lower", scores=None, metrics={"val/loss": 0.5})
    assert "num best" not in page_of(tmp_path, "alone", "lower")[0]


def test_names_break_at_their_joints_alone(tmp_path: Path) -> None:
    name = "classify-tiny-film_reviews-1128-225948"
    make_run(tmp_path, name)
    make_run(tmp_path, "b<i>")
    text, page = page_of(tmp_path, name, "b<i>")
    assert "classify-<wbr>tiny-<wbr>film_<wbr>reviews-<wbr>1128-<wbr>225948" in text
    assert "i" not in page.tags
    assert name in page.text


@pytest.mark.slow
def test_the_same_comparison_gives_the_same_page(runs: Path) -> None:
    assert page_of(runs, "a", "b")[0] == page_of(runs, "a", "b")[0]


@pytest.mark.slow
def test_samples_of_the_same_text_stand_side_by_side_and_are_no_code(runs: Path) -> None:
    given = "Who?\n\nMade-up <script>alert(1)</script>"
    for name in ("a", "b"):
        keep_samples(runs / name, Sample(input=given, output=f"answer of {name}", target="百合"))
    text, page = page_of(runs, "a", "b")
    assert "<script>" not in text
    assert page.text.count("Made-up <script>") == 1
    assert "answer of a" in page.text
    assert "answer of b" in page.text
    assert page.text.count("百合") == 1


@pytest.mark.slow
def test_the_page_for_all_has_no_samples_where_one_corpus_may_not_be_shown(runs: Path) -> None:
    (runs / "a" / "samples.md").write_text(samples_markdown([Sample(input="secret", output="x", target="x")]))
    keep_samples(runs / "b", Sample(input="secret", output="y", target="x"))
    facts = [read_facts(run) for run in select_runs(["a", "b"], runs)]
    assert [run.may_show_text for run in facts] == [False, True]
    own, of_all = (
        render_page(compare_runs(facts), mlflow_url=None, at=AT, show_text=show) for show in (True, False)
    )
    assert "input: secret" in own
    assert "secret" not in of_all
    assert "Not shown: the texts of a stay in their run folders" in of_all


def test_a_run_whose_corpus_may_be_shown_is_known_by_its_configuration(tmp_path: Path) -> None:
    make_run(tmp_path, "a", config={"log_corpus_text": True})
    make_run(tmp_path, "b", config={"log_corpus_text": False})
    facts = [read_facts(run) for run in select_runs(["a", "b"], tmp_path)]
    assert [run.may_show_text for run in facts] == [True, False]


@pytest.mark.slow
def test_the_page_says_whose_samples_are_missing(runs: Path) -> None:
    assert "There are no samples of a and b." in page_of(runs, "a", "b")[1].text
    keep_samples(runs / "a", Sample(input="Who?", output="Anna", target="Ida"))
    _, page = page_of(runs, "a", "b")
    assert "There are no samples of b." in page.text
    assert "Anna" in page.text


@pytest.mark.slow
def test_secrets_of_local_samples_are_on_no_page(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    text = samples_markdown([Sample(input="Who?", output="very-secret-value", target="x")])
    (runs / "a" / "samples.md").write_text(text)
    assert "very-secret-value" not in page_of(runs, "a", "b")[0]


@pytest.mark.slow
def test_samples_that_go_on_from_a_prompt_are_shown_whole(runs: Path) -> None:
    keep_samples(runs / "a", Sample(input="Once", output=" upon a time", is_continuation=True))
    keep_samples(runs / "b", Sample(input="There", output=" was a bell", is_continuation=True))
    _, page = page_of(runs, "a", "b")
    assert "Once upon a time" in page.text
    assert "There was a bell" in page.text


@pytest.mark.parametrize(
    "sample",
    [
        Sample(input="Who?", output="Anna\n\nor Ida", target="Ida"),
        Sample(input="Who?", output="Anna"),
        Sample(input="Once", output=" upon a time", is_continuation=True),
        Sample(input="", output="From nothing", is_continuation=True),
    ],
)
def test_samples_are_read_as_they_were_kept(runs: Path, sample: Sample) -> None:
    keep_samples(runs / "a", sample, sample)
    (run, _) = select_runs(["a", "b"], runs)
    assert read_facts(run).samples == [sample, sample]


def test_cost_is_what_the_run_has_counted(runs: Path) -> None:
    points = runs / "a" / "tracking" / "points.jsonl"
    values = {"training_flops": 2e9, "system/peak_memory_megabytes": 300.0}
    line = json.dumps({"kind": "metrics", "time_ms": 9, "step": 5, "values": values})
    points.write_text(f"{points.read_text()}{line}\n")
    save_file(
        {"w": np.zeros((10, 30), np.float32)}, str(runs / "a" / "bundles" / "best" / "model.safetensors")
    )
    facts = [read_facts(run) for run in select_runs(["a", "b"], runs)]
    assert facts[0].cost.parameters == 300
    assert (facts[0].cost.flops, facts[0].cost.peak_bytes) == (2e9, 3e8)
    assert (facts[1].cost.flops, facts[1].cost.peak_bytes) == (None, None)
    assert cost_table(facts)["seconds"] == ["2.5 s", "2.5 s"]


def test_an_adapter_has_the_parameters_of_its_base_too(runs: Path) -> None:
    bundle = runs / "a" / "bundles" / "best"
    (bundle / "model.json").write_text('{"adapter": {"rank": 2}}')
    (bundle / "provenance.json").write_text('{"cost": {"parameters": 5300}}')
    save_file({"w": np.zeros((10, 30), np.float32)}, str(bundle / "model.safetensors"))
    (run, _) = select_runs(["a", "b"], runs)
    assert read_facts(run).cost.parameters == 5300


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test/exact_match", "exact match"),
        ("val/loss", "validation loss"),
        ("accuracy", "accuracy"),
        ("test/storyworld_pronouns/acc", "storyworld_pronouns: acc"),
    ],
)
def test_a_metric_of_one_task_among_several_names_it(name: str, words: str) -> None:
    assert metric_words(name) == words


@pytest.mark.slow
def test_a_long_training_is_drawn_with_few_points(tmp_path: Path) -> None:
    make_run(tmp_path, "a", steps=5000)
    make_run(tmp_path, "b", steps=5000)
    text, _ = page_of(tmp_path, "a", "b")
    assert len(text) < 400_000


def test_mlflow_is_linked_for_the_runs_that_it_knows_only(runs: Path) -> None:
    make_run(runs, "c")
    facts = {run.name: read_facts(run) for run in select_runs(["a", "b", "c"], runs)}
    address = mlflow_url([facts["a"], facts["c"], facts["b"]])
    assert address is not None
    assert "1a" in address
    assert "2b" in address
    assert mlflow_url([facts["a"], facts["c"]]) is None
