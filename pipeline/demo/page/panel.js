// The panel of a tab: examples, input, answer and explanation for one model.

import { FORMS } from "./answers.js";
import { ask, Refusal, stream } from "./ask.js";
import { language, languageNames, make, said } from "./dom.js";
import { makeField, makeOptions } from "./fields.js";
import { whyOf } from "./why.js";

const MOST_SEED = 2 ** 31;

export function makePanel(model) {
  const panel = new Panel(model);
  return panel.element;
}

class Panel {
  constructor(model) {
    this.model = model;
    this.running = null;
    this.fields = model.fields.map((field) => makeField(field, () => this.update()));
    this.options = model.form === "continuation" ? makeOptions(model) : null;
    this.options?.inputs.forEach((input) => input.addEventListener("input", () => this.update()));
    this.send = said("button", "send", {}, { type: "submit", class: "main", disabled: true });
    this.stop = said("button", "stop", {}, { type: "button", disabled: true, onclick: () => this.running?.abort() });
    this.state = make("p", { class: "soft", role: "status" });
    this.answer = make("div", { class: "result", "aria-live": "polite" });
    this.why = make("div", { class: "why" });
    this.element = make("div", {}, ...this.head(), this.form(), this.state, this.answer, this.why);
  }

  head() {
    const { model, version, about, examples } = this.model;
    const name = version === null ? said("span", "madeBy", { name: model }) : said("span", "version", { name: model, version });
    const own = (example) => Number(example.language !== language.code);
    const buttons = [...examples].sort((a, b) => own(a) - own(b)).map((example) => this.example(example));
    return [
      make("p", {}, said("span", about), " ", make("span", { class: "soft" }, name)),
      make("div", { class: "examples" }, said("span", "examples", {}, { class: "soft" }), ...buttons),
    ];
  }

  example({ language, row }) {
    const texts = this.model.fields.filter((field) => !field.languages.length).map((field) => row[field.name]);
    const last = texts.findLast((text) => text !== undefined);
    const title = Array.isArray(last) ? last.at(-1).text : String(last);
    const codes = this.model.fields.filter((field) => field.languages.length).map((field) => row[field.name]);
    const names = codes.flatMap((code) => [said("span", languageNames(code)), " · "]);
    const use = () => {
      this.running?.abort();
      for (const field of this.fields) field.set(row[field.name]);
      this.clear();
      this.update();
      this.send.focus();
    };
    return make("button", { type: "button", lang: language, title, onclick: use }, ...names, title);
  }

  form() {
    const actions = make("div", { class: "actions" }, this.send, this.stop);
    if (this.model.form === "dialogue") {
      const begin = () => {
        this.running?.abort();
        this.fields.forEach((field) => field.set(undefined));
        this.clear();
        this.update();
      };
      actions.append(said("button", "clear", {}, { type: "button", onclick: begin }));
    }
    actions.append(said("span", "keys", {}, { class: "soft" }));
    const form = make("form", {}, ...this.fields.map((field) => field.element));
    if (this.options) form.append(this.options.element);
    form.append(actions);
    form.noValidate = true;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run();
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.run();
    });
    return form;
  }

  get isReady() {
    const filled = this.fields.every((field) => !field.required || field.value() !== undefined);
    return filled && (this.options === null || this.options.isValid());
  }

  update() {
    this.send.disabled = !this.isReady;
    this.stop.disabled = this.running === null;
  }

  clear() {
    this.answer.replaceChildren();
    this.why.replaceChildren();
    this.state.replaceChildren();
  }

  // Requests an answer, then an explanation; a new request aborts the previous one.
  async run() {
    if (!this.isReady) return;
    this.running?.abort();
    const running = new AbortController();
    this.running = running;
    this.clear();
    this.update();
    this.state.append(said("span", "working"));
    try {
      await this.#answered(running.signal);
    } catch (error) {
      if (this.running === running) this.refuse(error);
    } finally {
      if (this.running === running) {
        this.running = null;
        this.update();
      }
    }
  }

  async #answered(signal) {
    const row = this.row();
    const { body, text } = await this.#steps(row, signal);
    this.state.replaceChildren(said("span", "explaining"));
    this.update();
    const explanation = await ask("demo/explain", { ...body, model: this.model.model }, signal);
    const parts = whyOf(explanation, row, text);
    this.state.replaceChildren();
    if (parts.length) this.why.replaceChildren(said("h2", "why"), ...parts);
    else this.why.replaceChildren(said("p", "whyMarks", {}, { class: "soft" }));
  }

  #steps(row, signal) {
    if (this.model.form === "continuation") return this.#continued(row, signal);
    if (this.model.form === "dialogue") return this.#replied(row, signal);
    return this.#predicted(row, signal);
  }

  row() {
    const given = this.fields.map((field) => [field.name, field.value()]);
    return Object.fromEntries(given.filter(([, value]) => value !== undefined));
  }

  async #predicted(row, signal) {
    const { model, endpoint, form } = this.model;
    const { predictions: [prediction] } = await ask(endpoint, { ...row, model }, signal);
    const show = FORMS[form] ?? FORMS.text;
    this.answer.replaceChildren(...show(row, prediction, this.model));
    return { body: row, text: prediction.text };
  }

  // With the same seed, the explanation generates the same text again.
  async #continued(row, signal) {
    const { model, endpoint, fields } = this.model;
    const prompt = row[fields[0].name];
    const body = { prompt, ...this.options.value(), seed: Math.floor(Math.random() * MOST_SEED) };
    const text = make("span");
    this.answer.replaceChildren(make("p", { class: "words story" }, make("span", { class: "soft-ink" }, prompt), text));
    await this.#stream(endpoint, { ...body, model }, signal, text, (choice) => choice.text);
    return { body, text: text.textContent };
  }

  async #replied(row, signal) {
    const { model, endpoint } = this.model;
    const [field] = this.fields;
    const messages = row[field.name].map((turn) => ({ role: turn.role, content: turn.text }));
    const bubble = field.begin();
    this.update();
    try {
      await this.#stream(endpoint, { messages, model }, signal, bubble, (choice) => choice.delta.content ?? "");
    } finally {
      field.end(bubble.textContent);
    }
    return { body: row, text: bubble.textContent };
  }

  async #stream(endpoint, body, signal, element, piece) {
    for await (const event of stream(endpoint, body, signal)) {
      for (const choice of event.choices) {
        element.append(piece(choice));
        if (choice.finish_reason === "length" && this.model.form === "dialogue") this.state.replaceChildren(said("span", "cut"));
      }
    }
  }

  refuse(error) {
    this.state.replaceChildren();
    if (error.name === "AbortError") {
      this.state.append(said("span", "stopped"));
      return;
    }
    const { word, values } = error instanceof Refusal ? error : new Refusal("refused", { message: error.message });
    this.state.append(said("span", word, values, { class: "refusal", role: "alert" }));
    if (!(error instanceof Refusal)) throw error;
  }
}
