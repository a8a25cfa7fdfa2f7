// A text that appears as it is generated, tinted by the probability of each character.

import { el, field, number, select } from "./dom.js";
import { stream } from "./api.js";
import { codeBox, exampleLabel, modelCard, problemBox, timingLine } from "./parts.js";
import { isAbc, player, silence } from "./music.js";

const LEVELS = [0.8, 0.5, 0.2, 0.05]; // lower bounds of the tints, from likely to unlikely

const tintOf = (logprob) => {
  const index = LEVELS.findIndex((bound) => Math.exp(logprob) >= bound);
  return `tint-${index < 0 ? LEVELS.length : index}`;
};

const legend = () => el("p", { class: "legend" }, "Probability: ",
  [...LEVELS.map((bound) => `over ${100 * bound}%`), "less"].map((text, index) =>
    [el("span", { class: `tint-${index}` }, text), " "]));

function show(body, models) {
  let model = models[0];
  let pending = null;
  const text = el("pre", { class: "generated", tabindex: "0", role: "region", "aria-label": "Generated text" });
  const status = el("div", { role: "status" });
  const music = el("div");
  const about = el("div");
  const extras = el("div");
  const chooser = select(models.map((each) => [each.id, each.id]), { name: "model" });
  const examples = el("select");
  const prompt = el("textarea", { rows: 2, spellcheck: "false", name: "inputs" });
  const length = number(300, { min: 1, max: 4096, name: "max_new_tokens" });
  const temperature = number(0.8, { min: 0, max: 2, step: 0.1, name: "temperature" });
  const seed = number(7, { min: 0, step: 1, name: "seed" });
  const tinted = el("input", { type: "checkbox", checked: true, onchange: () =>
    text.classList.toggle("plain", !tinted.checked) });
  const go = el("button", { type: "submit" }, "Generate");
  const stop = el("button", { type: "button", class: "quiet", disabled: true, onclick: () => pending?.abort() }, "Stop");

  async function run() {
    pending?.abort();
    const mine = pending = new AbortController();
    const wanted = { path: "v1/generate_stream", task: "generate", model, body: { model: model.id, inputs: prompt.value,
      parameters: { max_new_tokens: length.valueAsNumber, temperature: temperature.valueAsNumber,
        seed: seed.valueAsNumber } } };
    text.replaceChildren(el("b", null, prompt.value));
    silence();
    music.replaceChildren();
    extras.replaceChildren(codeBox({ ...wanted, path: "v1/generate" }));
    stop.disabled = false;
    let count = 0;
    const arrived = []; // tokens since the last frame: a layout for each would leave no time for the buttons
    let frame = 0;
    const append = () => {
      frame = 0;
      if (mine !== pending) return;
      text.append(...arrived.splice(0));
      text.scrollTop = text.scrollHeight;
    };
    const started = performance.now();
    try {
      await stream(wanted.path, wanted.body, ({ token }) => {
        if (mine !== pending) return;
        count += 1;
        arrived.push(el("span", { class: tintOf(token.logprob), title:
          `${JSON.stringify(token.text)}: ${(100 * Math.exp(token.logprob)).toFixed(1)}%` }, token.text));
        frame ||= requestAnimationFrame(append);
      }, mine.signal);
      if (mine !== pending) return;
      const seconds = (performance.now() - started) / 1000;
      status.replaceChildren(timingLine({ totalMs: 1000 * seconds }),
        el("p", { class: "timing" }, `${count} characters, ${Math.round(count / seconds)} per second`));
    } catch (error) {
      if (mine !== pending) return;
      status.replaceChildren(error.name === "AbortError" ? el("p", null, `Stopped after ${count} characters.`) : problemBox(error));
    }
    if (mine !== pending) return;
    cancelAnimationFrame(frame);
    append();
    stop.disabled = true;
    if (isAbc(text.textContent)) music.replaceChildren(player(text.textContent));
  }

  function choose() {
    model = models.find((each) => each.id === chooser.value);
    examples.replaceChildren(...model.examples.map((each, index) => el("option", { value: index }, exampleLabel(each))));
    about.replaceChildren(modelCard(model));
    take();
  }

  function take() {
    prompt.value = model.examples[examples.value] ?? "";
    run();
  }

  chooser.addEventListener("change", choose);
  examples.addEventListener("change", take);
  body.append(
    el("p", { class: "intro" }, "The network predicts the next character from its state, draws one, reads it, and goes "
      + "on. The same seed gives the same text. A low temperature makes likely characters more likely."),
    el("form", { class: "panel", onsubmit: (event) => {
      event.preventDefault();
      run();
    } },
    el("div", { class: "choices" }, field("Model", chooser), field("Example", examples)), field("Prompt", prompt),
    el("div", { class: "parameters" }, field("Characters", length), field("Temperature", temperature), field("Seed", seed)),
    go, " ", stop, " ", el("label", { class: "inline" }, tinted, " Tint by probability")),
    el("section", { class: "answer", "aria-label": "Answer" }, text, legend(), music, status), about, extras);
  choose();
  return () => {
    pending?.abort();
    silence();
  };
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("generate"));
  if (models.length === 0) return null;
  return { name: "generate", title: "Generate", heading: "Continue a text", show: (body) => show(body, models) };
}
