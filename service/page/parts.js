// Parts that several views share: the form of a task, its answer, problems, model cards, and code to copy.

import { BASE, call, hasKey, setKey } from "./api.js";
import { el, field, select } from "./dom.js";
import { snippets } from "./snippets.js";

/** Ask for an API key in a form at the beginning of `place`. Resolves when one was entered. */
export function keyForm(place, wasWrong) {
  return new Promise((resolve) => {
    // A header has no other characters. Spaces around the key are removed.
    const input = el("input", { type: "password", autocomplete: "off", required: true, pattern: "\\s*[!-~]+\\s*",
      title: "Letters, digits and signs of ASCII, without spaces" });
    const form = el("form", { class: "panel key", onsubmit: (event) => {
      event.preventDefault();
      setKey(input.value.trim());
      form.remove();
      resolve();
    } },
    el("h2", null, "This service needs an API key"),
    el("p", { role: wasWrong && "alert" }, wasWrong
      ? "The service does not accept this key. Enter another one."
      : "The key stays in the memory of this page. It is forgotten when you close or reload the page."),
    field("API key", input), el("button", { type: "submit" }, "Use this key"));
    place.prepend(form);
    input.focus();
  });
}

/** Return what went wrong, in the words of the service. An error of the page itself is logged too. */
export function problemBox(error) {
  if (!error.problem) console.error(error);
  const { problem = { title: "The page cannot show this" }, status, headers } = error;
  const wait = headers?.get("retry-after");
  return el("div", { class: "problem", role: "alert" },
    el("p", null, el("strong", null, problem.title ?? "The request failed"), status ? ` (status ${status})` : ""),
    el("p", null, error.message),
    wait && el("p", null, `Try again in ${wait} s.`),
    problem.request_id && el("p", null, el("small", null, `Request ${problem.request_id}`)));
}

/** Return the time of an answer: in all and, if it was computed in a batch, in the queue and of computing. */
export function timingLine(timing) {
  const parts = [`${timing.totalMs.toFixed(1)} ms in all`];
  if (Number(timing.batch)) {
    parts.push(`${Number(timing.queue).toFixed(1)} ms in the queue`, `${Number(timing.compute).toFixed(1)} ms of computing`,
      `in a batch of ${timing.batch}`);
  }
  return el("p", { class: "timing" }, parts.join(" · "));
}

/** Return the card of a model: what it does, its scores and its limits. */
export function modelCard(model) {
  const scores = model.scores[model.variant] ?? {};
  const rows = [
    ["Version", `${model.version} (${model.digest.slice(0, 12)})`],
    ["Variant", model.variant],
    ["Languages", model.languages.join(", ")],
    ["Scores", Object.entries(scores).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ")],
    ["Longest input", `${model.limits.max_length} ${UNITS[model.codec] ?? "steps"}`],
    ["Labels", model.labels.length > 40 ? `${model.labels.length} labels` : model.labels.join(", ")],
  ];
  return el("details", { class: "card" }, el("summary", null, "About this model"), el("p", null, model.description),
    el("dl", null, rows.filter(([, value]) => value).map(([name, value]) => [el("dt", null, name), el("dd", null, value)])));
}

/** Return what the field of an input is named. */
const inputName = ({ codec }) => ({ dna: "Bases", frames: "Frames, as a JSON list of lists of numbers" })[codec] ?? "Text";

const UNITS = { words: "words", characters: "characters", dna: "bases", frames: "frames", series: "segments",
  pieces: "pieces", image: "patches" };

const shownCode = { open: false, language: "curl" }; // as the reader left it: a new answer has a new box

/** Return the request as curl, Python and JavaScript, with a button that copies it. */
function codeBox(request) {
  const texts = snippets(BASE, { ...request, key: hasKey() });
  const names = Object.keys(texts);
  const code = el("code", null, texts[shownCode.language]);
  const copied = el("span", { role: "status" });
  const radios = names.map((name) => el("label", null,
    el("input", { type: "radio", name: "language", value: name, checked: name === shownCode.language, onchange: () => {
      shownCode.language = name;
      code.textContent = texts[name];
      copied.textContent = "";
    } }), ` ${name}`));
  const copy = el("button", { type: "button", class: "quiet", onclick: async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      copied.textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(code); // pages without https have no clipboard
      copied.textContent = "Selected. Press Ctrl+C to copy.";
    }
  } }, "Copy");
  return el("details", { class: "code", open: shownCode.open, ontoggle: (event) => {
    shownCode.open = event.target.open;
  } }, el("summary", null, "The same request in code"),
    el("fieldset", null, el("legend", null, "Language"), radios),
    el("pre", { tabindex: "0", role: "region", "aria-label": "Code" }, code), copy, " ", copied);
}

/** Return a short text for an example in a list of choices. */
function exampleLabel(example) {
  if (typeof example !== "string") return `${example.length} ${Array.isArray(example[0]) ? "frames" : "values"}`;
  const line = example.replaceAll("\n", " ⏎ ").trim();
  return line.length > 60 ? `${line.slice(0, 57)}…` : line;
}

/** Return an example as it is edited in a text field. */
const exampleText = (example) => typeof example === "string" ? example : JSON.stringify(example, (_, value) =>
  typeof value === "number" ? Number(value.toPrecision(6)) : value);

/** Return what is sent for an edited text: frames and values are JSON. */
function parseInput(model, text) {
  if (model.codec !== "frames" && model.codec !== "series") return text;
  const wanted = model.codec === "series" ? "a list of numbers" : "a list of frames, each a list of numbers";
  const refuse = (why) => {
    throw Object.assign(new Error(`${why}. Write ${wanted}.`), { problem: { title: "The input cannot be sent" }, status: 0 });
  };
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    refuse(`The input is not JSON: ${error.message}`);
  }
  if (!Array.isArray(value)) refuse("The input is not a list");
  if (value.some((each) => Array.isArray(each) && (model.codec === "series" || each.some(Array.isArray)))) {
    refuse("The input has too many levels of lists");
  }
  if (value.flat().some((each) => each !== null && typeof each !== "number")) refuse("Not every value is a number");
  return value;
}

const GIST = ".result, .tagged, .strip, [role=img], figcaption"; // an answer may have a table of hundreds of cells

/** Return a function that sends a request, shows the whole answer at once, and returns the gist of it. */
const atOnce = (render) => async ({ path, body, model }, { input, signal, show }) => {
  const { answer, timing } = await call(path, body, signal);
  const shown = render(answer, { model, input });
  show(shown, timingLine(timing));
  const gist = shown.querySelector(GIST) ?? shown;
  return gist.getAttribute("aria-label") ?? gist.textContent;
};

/**
 * Show the form of one task and answer it: choose a model and an example, edit, send, read.
 *
 * options: models; intro: a sentence or two; parameters(model): elements with a `name`, read by `request`;
 * request(model, input, form): the path, the task and the body; render(answer, { model, input }): the answer as people
 * read it; action: what the button says; controls: elements next to the button; editor(model, { set, fail }): what replaces
 * the text field, as an `element` and a function to `show` an example, or null. A view that shows parts of an answer has
 * answer(request, { input, signal, show }) instead of `render`. It resolves to what screen readers say at the end.
 */
export function taskView(body, { models, intro, inputLabel, parameters = () => [], request, render, answer = atOnce(render),
  action = "Run", controls = [], editor = () => null }) {
  let model = models[0];
  let pending = null;
  const place = el("section", { class: "answer", "aria-label": "Answer" });
  const said = el("p", { class: "hidden", role: "status" });
  const code = el("div");
  const input = el("textarea", { rows: 2, spellcheck: "false", name: "inputs" });
  const name = el("span");
  const text = field(name, input);
  const edited = el("div");
  let own = null; // the editor that replaces the text field
  const options = el("div", { class: "parameters" });
  const about = el("div");
  const examples = el("select");
  const chooser = select(models.map((each) => [each.id, each.id]), { name: "model" });
  const send = el("button", { type: "submit" }, action);

  async function run() {
    pending?.abort();
    const mine = pending = new AbortController();
    const show = (...parts) => mine === pending && place.replaceChildren(...parts);
    send.setAttribute("aria-busy", "true");
    try {
      const value = parseInput(model, input.value);
      const wanted = { ...request(model, value, form.elements), model };
      code.replaceChildren(codeBox(wanted));
      const gist = await answer(wanted, { input: value, signal: mine.signal, show });
      if (mine === pending) said.textContent = gist;
    } catch (error) {
      if (mine !== pending || error.name === "AbortError") return;
      said.textContent = "";
      show(problemBox(error));
    }
    if (mine === pending) send.removeAttribute("aria-busy");
  }

  function choose() {
    model = models.find((each) => each.id === chooser.value);
    examples.replaceChildren(...model.examples.map((each, index) => el("option", { value: index },
      model.codec === "image" ? `Picture ${index + 1}` : exampleLabel(each))));
    own = editor(model, {
      set: (value) => {
        input.value = value;
        run();
      },
      fail: (error) => place.replaceChildren(problemBox(error)),
    });
    text.hidden = own !== null;
    edited.replaceChildren(...(own ? [own.element] : []));
    name.textContent = inputLabel ?? inputName(model);
    options.replaceChildren(...parameters(model));
    about.replaceChildren(modelCard(model));
    take();
  }

  function take() {
    input.value = exampleText(model.examples[examples.value] ?? "");
    own?.show(input.value);
    run();
  }

  const form = el("form", { class: "panel", onsubmit: (event) => {
    event.preventDefault();
    run();
  } },
  el("div", { class: "choices" }, field("Model", chooser), field("Example", examples)),
  text, edited, options, el("div", { class: "actions" }, send, controls));
  chooser.addEventListener("change", choose);
  examples.addEventListener("change", take);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  body.append(el("p", { class: "intro" }, intro), form, place, said, about, code);
  choose();
  return () => pending?.abort();
}
