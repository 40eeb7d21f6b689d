// Creates elements with texts in the language of the page. Texts are never inserted as HTML.

import { WORDS } from "./words.js";

const KEY = "prelude.language";
const texts = new WeakMap();

export const language = { code: preferred() };

function preferred() {
  const kept = localStorage.getItem(KEY);
  if (kept in WORDS) return kept;
  const wanted = navigator.languages.map((name) => name.split("-")[0]);
  return wanted.find((code) => code in WORDS) ?? "en";
}

// Returns a text of the page by its key, or a text that the server provides in several languages.
export function phrase(word, values = {}) {
  const text = typeof word === "string" ? WORDS[language.code][word] : (word[language.code] ?? word.en ?? "");
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const value = values[name];
    return typeof value === "object" ? phrase(value) : value;
  });
}

// Returns the name of a language in each language of the page, such as German and 德语 for "de".
export function languageNames(code) {
  return Object.fromEntries(Object.keys(WORDS).map((shown) => [shown, languageName(code, shown)]));
}

function languageName(code, shown) {
  try {
    return new Intl.DisplayNames([shown], { type: "language" }).of(code);
  } catch {
    return code; // a corpus may name languages in its own way
  }
}

export function say(element, word, values) {
  texts.set(element, () => (element.textContent = phrase(word, values)));
  element.dataset.said = "";
  texts.get(element)();
  return element;
}

export function switchTo(code) {
  language.code = code;
  localStorage.setItem(KEY, code);
  show();
}

export function show() {
  document.documentElement.lang = language.code === "zh" ? "zh-CN" : language.code;
  for (const element of document.querySelectorAll("[data-said]")) texts.get(element)();
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean") element.toggleAttribute(name, value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function said(tag, word, values, attributes) {
  return say(make(tag, attributes), word, values);
}

let count = 0;

export function freshId(name) {
  count += 1;
  return `${name}-${count}`;
}
