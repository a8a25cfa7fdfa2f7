// A series, its forecast, and how sure the model is: a fan chart.

import { lineChart } from "./chart.js";
import { el, field, number } from "./dom.js";
import { taskView } from "./parts.js";

const SHOWN = 240; // values of the history in the picture
const VALUES = 48; // to forecast at first
const LEVELS = [0.1, 0.9];

/** Return the lower and the upper level of the interval: LEVELS, within those of the model. */
const levelsOf = ({ forecast: { quantile_levels: known } }) => [Math.max(LEVELS[0], known[0]), Math.min(LEVELS[1], known.at(-1))];
const shownLevel = (level) => `${Number((100 * level).toFixed(1))}%`;

function render({ predictions: [found] }, { model, input }) {
  const levels = levelsOf(model);
  const [under, over] = levels.map((level) => found[level]);
  const history = input.slice(-SHOWN);
  const horizon = found.mean.length;
  const last = history.at(-1);
  const from = input.length - 1; // the fan begins at the last known value
  return el("div", null, lineChart({
    title: `Forecast of ${horizon} values after ${input.length} known values`,
    xLabel: "step",
    yLabel: "value",
    lines: [{ name: "known", kind: "history", from: input.length - history.length, values: history },
      { name: "forecast", kind: "forecast", from, values: [last, ...found.mean] }],
    areas: [{ name: `${shownLevel(levels[1] - levels[0])} of the values should fall in here`, kind: "forecast", from,
      low: [last ?? under[0], ...under], high: [last ?? over[0], ...over] }],
  }), el("details", null, el("summary", null, "As a table"), el("div", { class: "scroll", tabindex: "0", role: "region",
    "aria-label": "Forecast as a table" }, el("table", null,
    el("thead", null, el("tr", null, ["Step", "Mean", ...levels.map(shownLevel)].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null, found.mean.map((mean, step) => el("tr", null,
      [step + 1, mean, under[step], over[step]].map((value, column) =>
        el("td", null, column ? value.toFixed(2) : value)))))))));
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("forecast"));
  if (models.length === 0) return null;
  return { name: "forecast", title: "Forecast", heading: "Continue a series of numbers", show: (body) => taskView(body, {
    models,
    inputLabel: "Values, as a JSON list. Write null for a missing value.",
    intro: "The network reads the series in segments and forecasts the next values, with an interval that should "
      + "hold most of them. Remove values, or write null for some, to see how the interval grows.",
    parameters: ({ forecast: { horizon } }) => [field("Values to forecast",
      number(Math.min(VALUES, horizon), { name: "horizon", min: 1, max: horizon }))],
    request: (model, inputs, form) => ({ path: "v1/forecast", task: "forecast", body: { model: model.id,
      inputs: [{ target: inputs }],
      parameters: { prediction_length: form.horizon.valueAsNumber, quantile_levels: levelsOf(model) } } }),
    render,
  }) };
}
