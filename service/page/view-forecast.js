// A series, its forecast, and how sure the model is: a fan chart.

import { lineChart } from "./chart.js";
import { el, field, number } from "./dom.js";
import { taskView } from "./parts.js";

const SHOWN = 240; // values of the history in the picture
const LEVELS = [0.1, 0.9];

function render({ predictions: [found] }, { input }) {
  const history = input.slice(-SHOWN);
  const horizon = found.mean.length;
  const last = history.at(-1);
  const from = input.length - 1; // the fan begins at the last known value
  return el("div", null, lineChart({
    title: `Forecast of ${horizon} values after ${input.length} known values`,
    xLabel: "value",
    lines: [{ name: "known", kind: "history", from: input.length - history.length, values: history },
      { name: "forecast", kind: "forecast", from, values: [last, ...found.mean] }],
    areas: [{ name: "80% of the values should fall in here", kind: "forecast", from,
      low: [last ?? found[LEVELS[0]][0], ...found[LEVELS[0]]], high: [last ?? found[LEVELS[1]][0], ...found[LEVELS[1]]] }],
  }), el("details", null, el("summary", null, "As a table"), el("div", { class: "scroll", tabindex: "0", role: "region",
    "aria-label": "Forecast as a table" }, el("table", null,
    el("thead", null, el("tr", null, ["Step", "Mean", "10%", "90%"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null, found.mean.map((mean, step) => el("tr", null,
      [step + 1, mean, found[LEVELS[0]][step], found[LEVELS[1]][step]].map((value, column) =>
        el("td", null, column ? value.toFixed(2) : value)))))))));
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("forecast"));
  if (models.length === 0) return null;
  return { name: "forecast", title: "Forecast", heading: "Continue a series of numbers", show: (body) => taskView(body, {
    models,
    inputLabel: "Values, as a JSON list. Write null for a missing value.",
    intro: "The network reads the series in segments and forecasts the next values, with the interval that should hold "
      + "80% of them. Remove values, or write null for some, to see how the interval grows.",
    parameters: () => [field("Values to forecast", number(48, { name: "horizon", min: 1, max: 720 }))],
    request: (model, inputs, form) => ({ path: "v1/forecast", task: "forecast", body: { model: model.id,
      inputs: [{ target: inputs }],
      parameters: { prediction_length: form.horizon.valueAsNumber, quantile_levels: LEVELS } } }),
    render,
  }) };
}
