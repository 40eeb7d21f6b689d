// The input of a task: a field for each column that it reads, as the server describes them.

import { freshId, languageNames, make, said, say } from "./dom.js";

// Each field: element; value(), undefined where it is empty; set(value); required.
export function makeField(field, changed) {
  const id = freshId("field");
  const input = field.languages.length ? languageChoice(field, id) : area(field, id);
  input.addEventListener("input", changed);
  const label = field.required
    ? said("label", field.title, {}, { for: id })
    : said("label", "optional", { name: field.title }, { for: id });
  const made = {
    name: field.name,
    required: field.required,
    element: make("div", { class: "field" }, label, input),
    value: () => read(field, input.value),
    set: (value) => (input.value = typeof value === "string" ? value : value == null ? "" : JSON.stringify(value)),
  };
  if (field.kind === "json") made.element.append(said("p", "json", {}, { class: "soft" }));
  return field.kind === "turns" ? dialogue(made) : made;
}

function languageChoice(field, id) {
  const options = field.languages.map((code) => said("option", languageNames(code), {}, { value: code }));
  return make("select", { id }, ...(field.required ? [] : [make("option", { value: "" })]), ...options);
}

function area(field, id) {
  const rows = field.kind === "turns" ? 2 : 4;
  return make("textarea", { id, rows, spellcheck: "false" });
}

function read(field, text) {
  if (!text.trim()) return undefined;
  if (field.kind !== "json") return text;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

// A message with the dialogue so far above it.
function dialogue(message) {
  const log = make("div", { class: "log", "aria-live": "polite" });
  let turns = [];

  function add(turn) {
    const text = make("p", { class: "words" }, turn.text);
    const who = said("strong", turn.role === "user" ? "you" : "model");
    log.append(make("div", { class: `turn ${turn.role}` }, who, text));
    return text;
  }

  return {
    ...message,
    element: make("div", {}, log, message.element),
    value: () => (message.value() === undefined ? undefined : [...turns, { role: "user", text: message.value() }]),
    set: (value) => {
      log.replaceChildren();
      turns = (value ?? []).slice(0, -1);
      turns.forEach(add);
      message.set(value?.at(-1)?.text ?? "");
    },
    // Moves the message into the dialogue, and returns the element for the reply.
    begin: () => {
      turns = [...turns, { role: "user", text: message.value() }];
      add(turns.at(-1));
      message.set("");
      return add({ role: "assistant", text: "" });
    },
    end: (reply) => {
      turns = reply ? [...turns, { role: "assistant", text: reply }] : turns;
      if (!reply) {
        log.lastChild.remove();
        log.lastChild.remove();
        message.set(turns.at(-1).text);
        turns = turns.slice(0, -1);
      }
    },
  };
}

// Sampling options, for tasks whose text is generated token by token.
export function makeOptions(model) {
  const length = number({ min: 1, max: model.most_tokens, value: Math.min(60, model.most_tokens), step: 1 });
  const temperature = number({ min: 0, max: 2, value: 0.7, step: 0.1 });
  return {
    element: make("div", { class: "options" }, labelled("length", length), labelled("temperature", temperature)),
    value: () => ({ max_tokens: length.valueAsNumber, temperature: temperature.valueAsNumber }),
    isValid: () => length.validity.valid && temperature.validity.valid && length.value && temperature.value,
    inputs: [length, temperature],
  };
}

function number(attributes) {
  return make("input", { type: "number", id: freshId("option"), required: true, ...attributes });
}

function labelled(word, input) {
  return make("div", { class: "field" }, say(make("label", { for: input.id }), word), input);
}
