// A text that appears as it is generated, tinted by the probability of each character.

import { stream } from "./api.js";
import { el, field, number, percent } from "./dom.js";
import { isAbc, player, silence } from "./music.js";
import { problemBox, taskView } from "./parts.js";

const LEVELS = [0.8, 0.5, 0.2, 0.05]; // lower bounds of the tints, from likely to unlikely
const REFRESH_MS = 50; // layouts take time from a service on the same machine

const tintOf = (logprob) => {
  const index = LEVELS.findIndex((bound) => Math.exp(logprob) >= bound);
  return `tint-${index < 0 ? LEVELS.length : index}`;
};

const legend = () => el("p", { class: "legend" }, "Probability: ",
  [...LEVELS.map((bound) => `over ${100 * bound}%`), "less"].map((text, index) =>
    [el("span", { class: `tint-${index}` }, text), " "]));

function show(body, models) {
  const stop = el("button", { type: "button", class: "quiet", disabled: true }, "Stop");
  const tinted = el("input", { type: "checkbox", checked: true, onchange: () => body.classList.toggle("plain", !tinted.checked) });
  const parameters = [field("Characters", number(300, { min: 1, max: 4096, name: "max_new_tokens" })),
    field("Temperature", number(0.8, { min: 0, max: 2, step: 0.1, name: "temperature" })),
    field("Seed", number(7, { min: 0, step: 1, name: "seed" }))];

  async function answer(request, { input, signal, show: place }) {
    const text = el("pre", { class: "generated", tabindex: "0", role: "region", "aria-label": "Generated text" }, el("b", null, input));
    const music = el("div");
    const status = el("div");
    place(text, legend(), music, status);
    silence();
    const stopped = new AbortController();
    stop.onclick = () => stopped.abort();
    stop.disabled = false;
    let count = 0;
    const arrived = []; // tokens since the last layout: one for each token would leave no time for the buttons
    let timer = 0;
    const append = () => {
      timer = 0;
      text.append(...arrived.splice(0));
      text.scrollTop = text.scrollHeight;
    };
    const started = performance.now();
    let problem = null;
    try {
      await stream(`${request.path}_stream`, request.body, ({ token }) => {
        count += 1;
        arrived.push(el("span", { class: tintOf(token.logprob), title:
          `${JSON.stringify(token.text)}: ${percent(Math.exp(token.logprob))}` }, token.text));
        timer ||= setTimeout(append, REFRESH_MS);
      }, AbortSignal.any([signal, stopped.signal]));
    } catch (error) {
      if (!stopped.signal.aborted) problem = error;
    }
    if (signal.aborted) return ""; // another run has the buttons now
    const ms = performance.now() - started;
    stop.disabled = true;
    clearTimeout(timer);
    append();
    if (isAbc(text.textContent)) music.replaceChildren(player(text.textContent));
    const figures = stopped.signal.aborted ? `Stopped after ${count} characters.`
      : `${ms.toFixed(1)} ms in all · ${count} characters · ${Math.round(1000 * count / ms)} per second`;
    status.replaceChildren(problem ? problemBox(problem) : el("p", { class: "timing" }, figures));
    return problem ? "" : figures;
  }

  const leave = taskView(body, {
    models,
    inputLabel: "Prompt",
    intro: "The network predicts the next character from its state, draws one, reads it, and goes on. The same seed gives "
      + "the same text. A low temperature makes likely characters more likely.",
    action: "Generate",
    controls: [stop, el("label", null, tinted, " Tint by probability")],
    parameters: () => parameters, // as the reader left them, for another model too
    request: (model, inputs, form) => ({ path: "v1/generate", task: "generate", body: { model: model.id, inputs, parameters: {
      max_new_tokens: form.max_new_tokens.valueAsNumber, temperature: form.temperature.valueAsNumber,
      seed: form.seed.valueAsNumber } } }),
    answer,
  });
  return () => {
    leave();
    silence();
  };
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("generate"));
  if (models.length === 0) return null;
  return { name: "generate", title: "Generate", heading: "Continue a text", show: (body) => show(body, models) };
}
