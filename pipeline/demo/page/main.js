// The page: a tab for each loaded model, and the choice of the language.

import { ask, useToken } from "./ask.js";
import { freshId, language, make, said, say, show, switchTo } from "./dom.js";
import { makePanel } from "./panel.js";
import { WORDS } from "./words.js";

const tabs = document.getElementById("tabs");
const panels = document.getElementById("panels");
const languages = document.getElementById("languages");

function addLanguages() {
  for (const code of Object.keys(WORDS)) {
    const choose = () => {
      switchTo(code);
      mark();
    };
    languages.append(make("button", { type: "button", lang: code, "data-code": code, onclick: choose }, WORDS[code].language));
  }
  mark();
}

function mark() {
  languages.setAttribute("aria-label", WORDS[language.code].languages);
  tabs.setAttribute("aria-label", WORDS[language.code].tabs);
  for (const button of languages.children) {
    button.setAttribute("aria-pressed", String(button.dataset.code === language.code));
  }
}

function addTab(model) {
  const [tabId, panelId] = [freshId("tab"), freshId("panel")];
  const tab = said("button", model.title, {}, {
    type: "button", role: "tab", id: tabId, "aria-controls": panelId, onclick: () => choose(tab),
  });
  const panel = make("section", { role: "tabpanel", id: panelId, "aria-labelledby": tabId }, makePanel(model));
  tabs.append(tab);
  panels.append(panel);
}

function choose(chosen) {
  for (const [number, tab] of [...tabs.children].entries()) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
    panels.children[number].hidden = tab !== chosen;
  }
}

// Arrow keys wrap around, as is usual for tabs.
tabs.addEventListener("keydown", (event) => {
  const all = [...tabs.children];
  const here = all.indexOf(document.activeElement);
  const places = { ArrowRight: here + 1, ArrowLeft: here - 1 + all.length, Home: 0, End: all.length - 1 };
  if (!(event.key in places)) return;
  event.preventDefault();
  const next = all[places[event.key] % all.length];
  choose(next);
  next.focus();
});

function askForToken(word) {
  const input = make("input", { type: "password", id: freshId("token"), autocomplete: "off", required: true });
  const enter = (event) => {
    event.preventDefault();
    const token = input.value.trim();
    if (/^[\x21-\x7e]+$/.test(token)) {
      useToken(token);
      load();
    } else askForToken("wrongToken");  // no header can have it
  };
  const form = make("form", { onsubmit: enter },
    said("p", word, {}, { role: word === "token" ? "status" : "alert" }),
    make("div", { class: "field" }, said("label", "tokenName", {}, { for: input.id }), input),
    said("button", "open", {}, { type: "submit", class: "main" }));
  panels.replaceChildren(form);
  input.focus();
}

async function load() {
  try {
    const { models } = await ask("demo/models");
    panels.replaceChildren();
    models.forEach(addTab);
    if (models.length) choose(tabs.firstChild);
    else panels.append(said("p", "none"));
  } catch (error) {
    if (error.word === "token" || error.word === "wrongToken") {
      askForToken(error.word);
      return;
    }
    const again = said("button", "again", {}, { type: "button", onclick: load });
    panels.replaceChildren(make("div", { role: "alert" }, said("p", error.word ?? "away", error.values), again));
  }
}

say(document.getElementById("lead"), "lead");
show();
addLanguages();
load();
