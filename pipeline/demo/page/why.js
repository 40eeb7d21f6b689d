// Displays explanations: contributions of words, or probabilities of generated tokens.

import { make, phrase, said } from "./dom.js";
import { percent } from "./answers.js";

const MOST_WORDS = 10;
const MOST_PIECES = 8;

// Returns elements that explain the answer to a row; none if the task has no explanation.
export function whyOf(explanation, row, answer) {
  const parts = explanation.decisions.flatMap((one) => decision(one, row, explanation));
  if (explanation.written.length) parts.push(...written(explanation, answer));
  return parts;
}

function decision(one, row, explanation) {
  const label = one.about.replace(/^label /, "");
  const answer = one.about === "the answer" ? explanation.answer : label;
  const word = one.about === "that there is no answer" ? "whyNothing" : "whyWords";
  const gap = percent(one.gap);
  return [
    said("p", word, { answer }, { class: "soft" }),
    ...columns(one, row),
    said("p", one.is_complete ? "complete" : "incomplete", { gap }, { class: "soft gap" }),
    strongest(one),
  ];
}

function columns(one, row) {
  const largest = Math.max(...one.words.map((word) => Math.abs(word.attribution))) || 1;
  const names = [...new Set(one.words.map((word) => word.column))];
  return names.map((name) => {
    const letters = [...row[name]];
    const line = make("p", { class: "words" });
    let done = 0;
    for (const word of one.words.filter((each) => each.column === name)) {
      line.append(letters.slice(done, word.start).join(""));
      line.append(shaded(letters.slice(word.start, word.end).join(""), word.attribution / largest, signed(word.attribution)));
      done = word.end;
    }
    line.append(letters.slice(done).join(""));
    return line;
  });
}

function shaded(text, weight, note) {
  const element = make("span", { class: weight < 0 ? "against" : "for", title: note }, text);
  element.style.setProperty("--weight", (0.85 * Math.min(Math.abs(weight), 1)).toFixed(3));
  return element;
}

function signed(number) {
  return `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
}

function strongest(one) {
  const largest = [...one.words].sort((a, b) => Math.abs(b.attribution) - Math.abs(a.attribution));
  const rows = largest.slice(0, MOST_WORDS).map((word) => [word.text, signed(word.attribution)]);
  return folded("strongest", table(["word", "contribution"], rows));
}

function written(explanation, answer) {
  const line = make("p", { class: "words" });
  for (const token of explanation.written) {
    line.append(shaded(readable(token, explanation), token.probability - 1, percent(token.probability)));
  }
  const doubtful = [...explanation.written].sort((a, b) => a.probability - b.probability).slice(0, MOST_PIECES);
  const rows = doubtful.map((token) => [
    readable(token, explanation),
    percent(token.probability),
    token.alternatives.slice(0, 3).map(([text, share]) => `${unspaced(text)} ${percent(share)}`).join(", "),
  ]);
  const differs = explanation.answer !== null && explanation.answer.trim() !== answer.trim();
  return [
    ...(differs ? [said("p", "differs", { answer: explanation.answer }, { class: "notes" })] : []),
    said("p", "whyTokens", {}, { class: "soft" }),
    line,
    folded("doubtful", table(["piece", "probability", "instead"], rows)),
  ];
}

// Returns the text to show for a token; the last one may be the end token, which has none.
function readable(token, { written, answer }) {
  const isEnd = token === written.at(-1) && answer !== null && !answer.trimEnd().endsWith(unspaced(token.text).trim());
  return isEnd ? ` (${phrase("end")})` : unspaced(token.text);
}

function unspaced(text) {
  return text.replaceAll("\u2423", " ");
}

function folded(word, content) {
  return make("details", {}, said("summary", word), content);
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((word) => said("th", word)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((text) => make("td", {}, text ?? ""))));
  return make("div", { class: "wide" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}
