"""The page of `make demo` as a person uses it: by mouse, by keyboard, on a phone, in the dark, in Chinese."""

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import requests

from modules.heads import TokenHead
from modules.model import Model
from pipeline.demo.routes import add_page
from pipeline.serving.served import ServedModel
from pipeline.tasks.tag import TokenClassification
from scripts.browser import open_browser
from tests.pipeline.serving.models import TASKS, Running, served, serving

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make browser")
expect = api.expect

pytestmark = pytest.mark.slow

DEADLINE_MS = 60_000
TITLES = ["Write", "Talk", "Classify", "Answer questions", "Translate", "Mark names"]


def tagger() -> ServedModel:
    """A model with first weights that tags words."""
    base = served("qa")
    task = TokenClassification(entity_types=["PERSON", "THING"], optional_read=[], both_directions=False)
    model = Model(base.bundle.model.backbone, TokenHead(d_model=32, n_classes=5, dropout=0.0)).eval()
    bundle = replace(
        base.bundle, model=model, task=task, config={**base.bundle.config, "choices": {"task": "tag"}}
    )
    return replace(base, name="tag", spec="tag", bundle=bundle)


@pytest.fixture(scope="module")
def browser() -> Iterator["api.Browser"]:
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(open_browser())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        yield found


@pytest.fixture(scope="module")
def running(browser: "api.Browser") -> Iterator[Running]:
    with serving([*map(served, TASKS), tagger()]) as server:
        add_page(server.server)
        yield server


@contextlib.contextmanager
def opened(browser: "api.Browser", running: Running, **options: Any) -> Iterator["api.Page"]:
    """The page; what it complains of, and what it asks of others than the server, fails the test."""
    options = {"viewport": {"width": 1000, "height": 900}, "locale": "en-GB", **options}
    context = browser.new_context(**options)
    context.set_default_timeout(DEADLINE_MS)
    expect.set_options(timeout=DEADLINE_MS)
    page = context.new_page()
    asked, said = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{running.url}/")
    expect(page.get_by_role("tab")).to_have_count(len(TITLES))
    yield page
    context.close()
    assert [url for url in asked if not url.startswith(f"{running.url}/")] == []
    assert [text for text in said if "status of 400" not in text] == []


def panel(page: "api.Page") -> "api.Locator":
    return page.get_by_role("tabpanel")


def explained(page: "api.Page") -> None:
    expect(panel(page).locator(".why > *").first).to_be_visible()
    expect(panel(page).get_by_role("status")).to_be_empty()


def shown(page: "api.Page") -> str:
    """The answer: of a dialogue its last turn."""
    place = ".turn.assistant p" if panel(page).locator(".log").count() else ".result > :first-child"
    return panel(page).locator(place).last.inner_text()


def post(running: Running, path: str, body: Any) -> Any:
    return requests.post(f"{running.url}{path}", json=body, timeout=60).json()


def test_every_tab_answers_an_example_by_mouse_as_the_server_does_and_says_why(
    browser: "api.Browser", running: Running
) -> None:
    with opened(browser, running) as page:
        assert page.get_by_role("tab").all_inner_texts() == TITLES
        for number, model in enumerate(
            requests.get(f"{running.url}/demo/models", timeout=60).json()["models"]
        ):
            page.get_by_role("tab").nth(number).click()
            expect(panel(page).get_by_role("button", name="Send")).to_be_disabled()
            panel(page).locator(".examples button").first.click()
            if model["form"] == "continuation":
                panel(page).get_by_label("Length").fill("12")
                panel(page).get_by_label("Temperature").fill("0")
            panel(page).get_by_role("button", name="Send").click()
            explained(page)
            row = model["examples"][0]["row"]
            if model["form"] == "continuation":
                body = {"prompt": row["text"], "max_tokens": 12, "temperature": 0}
                right = row["text"] + post(running, model["endpoint"], body)["choices"][0]["text"]
                assert shown(page).split() == right.split()
                continue
            (right,) = post(running, f"/v1/{ENDPOINTS.get(model['model'], model['model'])}", row)[
                "predictions"
            ]
            if model["form"] == "entities":
                words = panel(page).locator("mark.kind")
                assert words.count() == len(right["entities"]) > 0
                assert words.first.inner_text() == "{text} {type}".format(**right["entities"][0])
            else:
                assert shown(page).split() == (right["text"] or "(nothing)").split(), model["form"]
            if model["form"] == "span":
                assert panel(page).locator("mark").inner_text() == right["text"]
            if model["form"] == "labels":
                best, *_ = panel(page).locator(".bars li").all_inner_texts()
                assert best.split()[0] == right["text"]
                assert f"{right['confidence']:.0%}" == best.split()[1] + "%"
            if model["form"] in ("span", "labels"):
                assert panel(page).locator(".why .words .for").count() > 5
                expect(panel(page).locator(".why .gap")).to_contain_text("%")


ENDPOINTS = {"qa": "answer"}


def test_every_tab_is_used_by_the_keyboard_alone_and_nothing_empty_is_sent(
    browser: "api.Browser", running: Running
) -> None:
    with opened(browser, running) as page:
        sent = list[str]()
        page.on("request", lambda request: sent.append(request.url))
        for _ in range(3):  # past both languages, to the tabs
            page.keyboard.press("Tab")
        for number, title in enumerate(TITLES):
            if number:
                page.keyboard.press("ArrowRight")
            tab = page.get_by_role("tab", name=title)
            expect(tab).to_be_focused()
            expect(tab).to_have_attribute("aria-selected", "true")
            n_examples = panel(page).locator(".examples button").count()
            for _ in range(n_examples + 1):
                page.keyboard.press("Tab")
            page.keyboard.press("Control+Enter")
            page.keyboard.type("   ")
            page.keyboard.press("Control+Enter")
            assert sent == []
            page.keyboard.type("Frieda has a hat.")
            if title == "Answer questions":
                page.keyboard.press("Control+Enter")
                assert sent == []
                page.keyboard.press("Tab")
                page.keyboard.type("Who has it?")
            page.keyboard.press("Control+Enter")
            explained(page)
            assert len(sent) == 2  # the answer, and why
            sent.clear()
            while page.evaluate("document.activeElement.role") != "tab":
                page.keyboard.press("Shift+Tab")
        page.keyboard.press("Home")
        expect(page.get_by_role("tab", name=TITLES[0])).to_be_focused()


def test_on_a_phone_in_chinese_in_the_dark_nothing_is_wider_than_the_page(
    browser: "api.Browser", running: Running
) -> None:
    options = {"viewport": {"width": 420, "height": 900}, "locale": "zh-CN", "color_scheme": "dark"}
    with opened(browser, running, **options) as page:
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 24, 31)"
        assert page.get_by_role("tab").all_inner_texts() == [
            "续写",
            "对话",
            "分类",
            "回答问题",
            "翻译",
            "标注实体",
        ]
        for tab in page.get_by_role("tab").all()[1:]:
            tab.click()
            panel(page).locator(".examples button").first.click()
            panel(page).get_by_role("button", name="发送").click()
            explained(page)
            for folded in panel(page).locator("summary").all():
                folded.click()
            assert page.evaluate("document.documentElement.scrollWidth") == 420
        keys = page.evaluate("import('/words.js').then(({WORDS}) => Object.values(WORDS).map(Object.keys))")
        assert keys[0] == keys[1]
        assert page.locator("option").all_inner_texts() == ["德语", "中文"]
        page.get_by_role("button", name="English").click()
        assert page.locator("option").all_inner_texts() == ["German", "Chinese"]
        assert page.get_by_role("tab").all_inner_texts() == TITLES  # and what was answered is still there
        expect(panel(page).locator(".why > *").first).to_be_visible()
        page.reload()
        expect(page.get_by_role("tab").first).to_have_text("Write")


def test_what_is_typed_stays_text_and_what_the_server_refuses_is_said(
    browser: "api.Browser", running: Running
) -> None:
    with opened(browser, running) as page:
        page.get_by_role("tab", name="Answer questions").click()
        panel(page).get_by_label("Text", exact=True).fill("<img src=/x> <b>Frieda</b>")
        panel(page).get_by_label("Question").fill("<script>?")
        panel(page).get_by_role("button", name="Send").click()
        explained(page)
        expect(panel(page).locator(".result p.words")).to_have_text("<img src=/x> <b>Frieda</b>")
        assert page.locator("img, section b, section script").count() == 0
        page.get_by_role("tab", name="Write").click()
        panel(page).get_by_label("Beginning").fill("a" * 200)
        panel(page).get_by_role("button", name="Send").click()
        expect(page.get_by_role("alert")).to_have_text(re.compile("could not answer: .*which is 96 tokens"))
        expect(panel(page).get_by_role("button", name="Send")).to_be_enabled()


def test_a_server_with_a_token_is_opened_by_it_alone(browser: "api.Browser") -> None:
    with serving([served("classify")], token="secret") as running:
        add_page(running.server)
        page = browser.new_page(locale="en-GB")
        page.set_default_timeout(DEADLINE_MS)
        page.goto(f"{running.url}/")
        expect(page.get_by_label("Token")).to_be_focused()
        assert page.get_by_role("tab").count() == 0
        page.keyboard.type("guess")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The server does not know this token.")
        page.keyboard.type("secret")
        page.keyboard.press("Enter")
        expect(page.get_by_role("tab")).to_have_text(["Classify"])
        page.reload()
        expect(page.get_by_role("tab")).to_have_text(["Classify"])
        panel(page).locator(".examples button").first.click()
        panel(page).get_by_role("button", name="Send").click()
        explained(page)
        page.close()


def test_a_request_can_be_stopped_and_another_one_sent(browser: "api.Browser", running: Running) -> None:
    rows = {"rows": [{"source": "Frieda has a hat. " * 4, "target_language": "de"}] * 200}
    with opened(browser, running) as page:
        busy = threading.Thread(target=lambda: post(running, "/v1/translate", rows))
        busy.start()  # the worker has something else to do
        page.get_by_role("tab", name="Classify").click()
        panel(page).locator(".examples button").first.click()
        panel(page).get_by_role("button", name="Send").click()
        panel(page).get_by_role("button", name="Stop").click()
        expect(panel(page).get_by_role("status")).to_have_text("Stopped.")
        expect(panel(page).locator(".result")).to_be_empty()
        panel(page).get_by_role("button", name="Send").click()
        explained(page)
        busy.join()
