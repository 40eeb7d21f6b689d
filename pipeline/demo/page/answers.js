// Displays answers of each form. Offsets in texts are counted in code points, as in Python.

import { make, said } from "./dom.js";

const MOST_BARS = 6;

export function percent(share) {
  if (share > 0.999 && share < 1) return ">\u00a099.9\u00a0%";
  if (share > 0 && share < 0.001) return "<\u00a00.1\u00a0%";
  const digits = share < 0.1 || share > 0.99 ? 1 : 0;
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

function bars(entries) {
  return make("ul", { class: "bars" }, ...entries.map(([name, share]) => {
    const fill = make("span", { class: "fill" });
    fill.style.setProperty("--share", share);
    return make(
      "li", {},
      typeof name === "string" ? make("span", { class: "name" }, name) : name,
      make("span", { class: "track", "aria-hidden": "true" }, fill),
      make("span", { class: "share" }, percent(share)),
    );
  }));
}

function headline(text, word) {
  return text ? make("p", { class: "answer" }, text) : said("p", word, {}, { class: "answer" });
}

function confidence(prediction) {
  if (prediction.confidence === null || prediction.confidence === undefined) return [];
  return [bars([[said("span", "confidence", {}, { class: "name" }), prediction.confidence]])];
}

function text(row, prediction) {
  const parts = [headline(prediction.text, "nothing"), ...confidence(prediction)];
  if (prediction.finish_reason === "length") parts.push(said("p", "cut", {}, { class: "soft" }));
  return parts;
}

function labels(row, prediction) {
  const shares = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]).slice(0, MOST_BARS);
  return [headline(prediction.text, "noLabel"), bars(shares)];
}

function span(row, prediction, model) {
  const parts = [headline(prediction.text, "noAnswer"), ...confidence(prediction)];
  if (prediction.start !== null) {
    const letters = [...row[model.fields[0].name]];
    parts.push(make(
      "p", { class: "words" },
      letters.slice(0, prediction.start).join(""),
      make("mark", {}, letters.slice(prediction.start, prediction.end).join("")),
      letters.slice(prediction.end).join(""),
    ));
  }
  const others = prediction.n_best.filter((one) => one.text !== prediction.text && one.probability >= 0.001);
  if (others.length) {
    parts.push(said("p", "others", {}, { class: "soft" }));
    parts.push(bars(others.slice(0, 3).map((one) => [
      one.text || said("span", "noAnswer", {}, { class: "name" }), one.probability,
    ])));
  }
  return parts;
}

function entities(row, prediction) {
  const letters = [...prediction.plain_text];
  const kinds = [...new Set(prediction.entities.map((one) => one.type))].sort();
  const line = make("p", { class: "words marked" });
  let done = 0;
  for (const one of prediction.entities) {
    const kind = make("small", {}, one.type);
    const words = letters.slice(one.start, one.end).join("");
    line.append(letters.slice(done, one.start).join(""));
    line.append(make("mark", { class: `kind kind-${kinds.indexOf(one.type) % 6}` }, words, " ", kind));
    done = one.end;
  }
  line.append(letters.slice(done).join(""));
  if (!prediction.entities.length) return [line, said("p", "noEntities", {}, { class: "soft" })];
  const shares = prediction.entities.map((one) => [`${one.text} (${one.type})`, one.confidence]);
  return [line, said("p", "certainty", {}, { class: "soft" }), bars(shares)];
}

export const FORMS = { text, labels, span, entities };
