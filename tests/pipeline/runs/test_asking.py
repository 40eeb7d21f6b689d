"""A bundle in Python: it answers rows as the command does, and a mistake is answered in one sentence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.generation import SamplingOptions
from pipeline import load_bundle
from pipeline.errors import BundleError, ConfigError, DataError, UserError
from pipeline.runs.bundle import Bundle

FIXTURES = Path(__file__).parents[2] / "fixtures" / "version_0_1"
ROW = {"text": "Emil the baker had a lantern.", "label": "not looked at", "more": 3}


@pytest.fixture(scope="module")
def classifier() -> Bundle:
    return load_bundle("old-classify", runs_dir=FIXTURES)


@pytest.fixture(scope="module")
def writer() -> Bundle:
    return load_bundle(FIXTURES / "old-pretrain")


def test_rows_in_memory_get_the_answers_that_the_task_gives_in_their_order(classifier: Bundle) -> None:
    rows = [ROW, {"text": "short"}, {"text": "Frieda was at the well, and she had it. " * 3}]
    task: Any = classifier.task
    expected = task.predict(classifier.model, classifier.tokenizer, rows, batch_size=32)
    assert classifier.predict(rows) == expected
    assert [found.text for found in classifier.predict(rows, batch_size=1)] == [one.text for one in expected]
    assert classifier.predict([]) == []


def test_a_text_goes_on_as_with_the_command_of_the_same_options(writer: Bundle) -> None:
    options = SamplingOptions(max_new_tokens=12, temperature=0.8, seed=3)
    task: Any = writer.task
    (sample,) = task.samples(writer.model, writer.tokenizer, prompts=["One"], texts=[], options=options)
    assert writer.generate("One", max_new_tokens=12, seed=3) == "One" + sample.output


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda c, w: c.predict([{"txt": "x"}]), DataError, "row 1 has no column 'text', only txt"),
        (lambda c, w: c.predict([ROW, {"text": 3}]), DataError, "row 2: column 'text' contains a number"),
        (lambda c, w: c.predict(ROW), DataError, "put brackets around it"),
        (lambda c, w: c.predict(["x"]), DataError, "row 1 is a str, not a mapping"),
        (lambda c, w: w.predict([ROW]), BundleError, "call bundle.generate"),
        (lambda c, w: c.generate("x"), BundleError, "use this one with bundle.predict"),
        (lambda c, w: w.generate("x", tempature=1), ConfigError, "did you mean temperature"),
        (lambda c, w: w.generate("x", temperature=-1.0), ConfigError, "use 0 for greedy decoding"),
        (lambda c, w: w.generate(3), ConfigError, "the prompt 3 is not a string"),
        (lambda c, w: load_bundle("old", runs_dir=FIXTURES), BundleError, "old-classify"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(
    classifier: Bundle, writer: Bundle, call: Callable[..., Any], kind: type[UserError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        call(classifier, writer)


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'mlflow', 'lightning', 'hydra', 'datasets'}"
    code = f"import sys; from pipeline import load_bundle; sys.exit(bool({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
