"""MLflow's pages as a person sees them: a real browser opens every address that our commands print."""

import contextlib
import io
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.lineage import Node, State, draw
from pipeline.tracking.spool import Progress
from scripts.browser import ASSISTANT_CLOSED, open_browser
from tests.waiting import LIMIT_S

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")
expect = api.expect

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),  # of MLflow
]

ROOT = Path(__file__).parents[2]
DEADLINE_MS = 300_000
PRINTED = "http://127.0.0.1:5000"
QUICK = ("debug=quick", "tracking.end_wait_s=600")
SMALL = ("tokenizer.vocab_size=600", "data.n_train_rows=60", "data.n_validation_rows=12")
FEW = ("data.n_train_rows=200", "data.n_validation_rows=12", "data.n_test_rows=40")
COMMANDS = {
    "rotary": ("pretrain", *QUICK, *SMALL, "name=rotary", "trainer.max_steps=150"),
    "learned": ("pretrain", *QUICK, *SMALL, "name=learned", "position=learned"),
    "wishes": ("finetune", "task=classify", *QUICK, *FEW, "init_from=rotary", "name=wishes"),
    "answers": ("finetune", "task=qa", *QUICK, *FEW, "init_from=rotary", "name=answers"),
    "positions": ("compare", "runs=[rotary,learned]", "name=positions", "tracking.end_wait_s=600"),
    "registered": ("register", "bundle=wishes", "alias=champion"),
}


@dataclass(frozen=True)
class Store:
    """A project folder with runs, and what the commands that made them said."""

    folder: Path
    said: dict[str, str]

    def address(self, command: str) -> str:
        """The one address of MLflow that a command printed, whole."""
        (found,) = re.findall(rf"{PRINTED}\S*", self.said[command])
        return str(found)

    def tracked(self, run: str) -> Progress:
        return Progress.load(self.folder / "runs" / run / "tracking")

    def model(self, run: str) -> str:
        return self.tracked(run).models[str(self.folder / "runs" / run / "bundles" / "best")]


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(open_browser())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture(scope="module")
def store(browser: "api.Browser", tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two pretrainings, two fine-tunings, a comparison and a registered model."""
    folder = tmp_path_factory.mktemp("project")
    said = {}
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as environment:
        environment.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, words in COMMANDS.items():
            talk = io.StringIO()
            with contextlib.redirect_stderr(talk), contextlib.redirect_stdout(talk):
                code = main(words)
            said[name] = talk.getvalue()
            assert code == 0, said[name]
    return Store(folder, said)


@pytest.fixture(scope="module")
def ui(store: Store) -> Iterator[str]:
    """`make ui` as it is, and the address that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
    served = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "ui", f"port={port}"],
        cwd=store.folder,
        env={**environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert served.stderr is not None
    lines: list[str] = []
    for line in served.stderr:  # its own limit ends it where the server does not start
        lines.append(line)
        if "Ctrl-C" in line:
            break
    addresses = re.findall(rf"http://127\.0\.0\.1:{port}/\S*", "".join(lines))
    assert len(addresses) == 1, lines
    yield addresses[0]
    served.terminate()
    served.communicate(timeout=LIMIT_S)


@pytest.fixture
def page(browser: "api.Browser", ui: str) -> Iterator["api.Page"]:
    """A page of a person who has been here before; what the page complains of fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.add_init_script(ASSISTANT_CLOSED)
    context.set_default_timeout(DEADLINE_MS)
    expect.set_options(timeout=DEADLINE_MS)
    page = context.new_page()
    crashes: list[str] = []
    page.on("pageerror", lambda error: crashes.append(str(error)))
    yield page
    context.close()
    assert crashes == []


def visit(page: "api.Page", ui: str, printed: str) -> None:
    """Open what a command printed, on the port where the pages are now."""
    page.goto(printed.replace(PRINTED, ui.partition("/#")[0]))
    expect(page.get_by_role("link", name="Model registry")).to_be_visible()  # GenAI has prompts instead
    expect(page.get_by_role("link", name="Prompts")).to_have_count(0)


def section(page: "api.Page", name: str) -> "api.Locator":
    """The head of a group of charts, with how many it has."""
    return page.get_by_role("button").filter(has_text=re.compile(rf"^{name}\s*\([1-9]\d*\)"))


def test_make_ui_opens_on_the_curves_of_our_runs_by_name_in_groups(
    page: "api.Page", ui: str, store: Store
) -> None:
    visit(page, ui, ui)
    for name in ("rotary", "learned", "wishes", "answers"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    expect(page.get_by_role("link", name="positions", exact=True)).to_have_count(0)  # of prelude-reports
    for group in ("train", "val", "Model metrics", "System metrics"):
        expect(section(page, group)).to_be_attached()
    heads = page.get_by_role("button").filter(has_text=re.compile(r"^[\w/ ]+\s*\([1-9]\d*\)"))
    expect(heads.first).to_have_text(re.compile("^train"))
    # The losses are drawn at once; what a run ends with is a bar, and an interval's ends have no chart.
    expect(page.locator(".plotly .scatterlayer .js-line").first).to_be_attached()
    expect(page.get_by_text(re.compile("_(low|high)$"))).to_have_count(0)
    page.get_by_placeholder("Search metric charts").fill("test_mcc")
    expect(page.locator(".plotly .barlayer path").first).to_be_attached()


def test_each_training_is_drawn_as_a_line(page: "api.Page", ui: str, store: Store) -> None:
    visit(page, ui, ui)
    page.get_by_placeholder("Search metric charts").fill("train/loss")
    expect(page.locator(".plotly .scatterlayer .js-line").nth(3)).to_be_attached()  # of four trainings
    for name in ("rotary", "learned", "wishes", "answers"):
        expect(page.get_by_text(f"{name} (train/loss)")).to_be_attached()
    page.get_by_placeholder("Search metric charts").fill("system/trainer_memory")
    expect(page.locator(".plotly .scatterlayer, .plotly .barlayer").first).to_be_attached()


def test_the_page_of_a_run_says_what_it_was_with_what_and_how_well(
    page: "api.Page", ui: str, store: Store
) -> None:
    visit(page, ui, store.address("wishes"))
    expect(page.get_by_role("heading", name="wishes")).to_be_visible()
    expect(page.get_by_role("cell", name=re.compile(r"^0\.\d+ \(95 %: .* to .*\)$")).first).to_be_visible()
    expect(page.get_by_text("TextClassification", exact=False).first).to_be_visible()
    for text in ("storyworld-classify", "best of wishes", "best of rotary", "trainer.max_steps", "test_mcc"):
        expect(page.get_by_text(text, exact=False).first).to_be_attached()
    expect(page.get_by_text(re.compile("Registered models")).first).to_be_attached()


def test_a_run_has_its_configuration(page: "api.Page", ui: str, store: Store) -> None:
    visit(page, ui, store.address("wishes").replace("?", "/artifacts?"))
    page.get_by_text("config.yaml").click()
    expect(page.get_by_text("init_from: runs/rotary/bundles/best")).to_be_visible()


@pytest.mark.parametrize(
    ("run", "names"),
    [("wishes", ["confusion_matrix", "learning_curves", "attention"]), ("rotary", ["attention"])],
)
def test_a_run_has_its_pictures(page: "api.Page", ui: str, store: Store, run: str, names: list[str]) -> None:
    visit(page, ui, store.address(run).replace("?", "/artifacts?"))
    page.get_by_text("plots", exact=True).click()
    for name in names:
        page.get_by_text(f"{name}.png").click()
        picture = page.locator(f"img[src*={name}], img[src^=blob]").first
        expect(picture).to_be_visible()
        page.wait_for_function(
            "image => image.complete && image.naturalWidth > 300", arg=picture.element_handle()
        )


def test_the_printed_address_of_each_run_opens_its_page(page: "api.Page", ui: str, store: Store) -> None:
    for run in ("rotary", "learned", "answers"):
        visit(page, ui, store.address(run))
        expect(page.get_by_role("heading", name=run)).to_be_visible()


def test_what_compare_prints_opens_both_runs_beside_each_other(
    page: "api.Page", ui: str, store: Store
) -> None:
    visit(page, ui, store.address("positions"))
    expect(page.get_by_role("heading", name="Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for name in ("rotary", "learned"):
        expect(page.get_by_role("cell", name=name, exact=True).first).to_be_attached()
    page.get_by_role("switch", name="Parameters - Show diff only").click()
    expect(page.get_by_text("choices.position")).not_to_have_count(0)
    expect(page.get_by_text("choices.size")).to_have_count(0)


def test_a_registered_model_has_its_version_alias_and_origin(page: "api.Page", ui: str, store: Store) -> None:
    visit(page, ui, store.address("registered"))
    expect(page.get_by_text("champion").first).to_be_visible()
    expect(page.get_by_text("Version 1").first).to_be_visible()
    expect(page.get_by_role("link", name="wishes", exact=True)).to_be_visible()
    expect(page.get_by_role("cell", name=re.compile(r"^0\.\d+ to 0\.\d+$"))).not_to_have_count(0)


def test_the_page_of_a_logged_model_ties_its_numbers_to_run_and_data(
    page: "api.Page", ui: str, store: Store
) -> None:
    tracked = store.tracked("wishes")
    models, view = f"{PRINTED}/#/experiments/{tracked.experiment_id}/models", "workflowType=machine_learning"
    visit(page, ui, f"{models}/{store.model('wishes')}?{view}")
    expect(page.get_by_role("heading", name="best of wishes")).to_be_visible()
    expect(page.get_by_text("storyworld-classify:test").first).to_be_visible()
    expect(page.get_by_text("prelude-classify").first).to_be_visible()
    visit(page, ui, f"{models}?{view}")
    for name in ("best of rotary", "best of learned", "best of wishes", "best of answers"):
        expect(page.get_by_role("link", name=name)).to_be_visible()


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_of_compare_needs_no_network_and_fits_a_screen_and_a_phone(
    browser: "api.Browser", store: Store, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    address = (store.folder / "runs/positions/compare.html").as_uri()
    page.goto(address)
    expect(page.locator(".verdict")).to_contain_text("nats per token")
    for title in ("Metrics", "Learning curves", "Cost", "Different settings", "Samples"):
        expect(page.get_by_role("heading", name=title)).to_be_visible()
    assert page.locator("svg path").count() > 10
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert (asked, said) == ([address], [])
    page.close()


def test_no_text_of_a_lineage_is_wider_than_its_box(browser: "api.Browser", tmp_path: Path) -> None:
    long = Node(kind="source", title="数据集" * 30, facts={"split": "train" * 30}, state=State.OK)
    corpus = Node(kind="corpus", title="Große Wörter und 大词 " * 4, made_from=(long,))
    run = Node(kind="run", title="WWWWWWWWMMMMMMMM " * 6, note="ÄÖÜ éà 🙂 " * 9, made_from=(corpus,))
    picture = tmp_path / "lineage.svg"
    picture.write_text(draw(run), encoding="utf-8")
    page = browser.new_page()
    page.goto(picture.as_uri())
    spill = page.evaluate(
        """() => [...document.querySelectorAll("g")].flatMap(group => {
            const box = group.querySelector("rect").getBBox();
            return [...group.querySelectorAll("text")].filter(text => {
                const line = text.getBBox();
                return line.x + line.width > box.x + box.width || line.y + line.height > box.y + box.height;
            }).map(text => text.textContent);
        })"""
    )
    page.close()
    assert spill == []
