// What happens inside: gates and cells at every step, and how far back the last state reaches.

import { heatMap, lineChart } from "./chart.js";
import { el, field, select } from "./dom.js";
import { taskView } from "./parts.js";

const PARTS = {
  forget: "The forget gate decides how much of the cell is kept. Near 1 (strong blue), the unit remembers; near 0, it forgets.",
  input: "The input gate decides how much of the candidate enters the cell.",
  output: "The output gate decides how much of the cell the rest of the network sees.",
  candidate: "The candidate is the new content for the memory, between -1 and 1.",
  cell: "The cell is the memory of the unit. It changes only where the gates let it.",
  memory: "The squashed cell, between -1 and 1: what the unit remembers.",
  state: "The state is what the unit passes to the next step and to the next layer.",
  reset: "The reset gate decides how much of the old state the candidate may use.",
  update: "The update gate decides how much of the old state is kept. Near 1 (strong blue), the unit remembers.",
};
const REFUSED = ["forecast", "translate", "caption"]; // tasks whose models the route refuses
const GATES = ["forget", "input", "output", "reset", "update"];

const visible = (step) => (step === "\n" ? "⏎" : step === " " ? "␣" : step);

function layerName(layer) {
  return `${layer.name}, ${layer.direction}, ${layer.kind} of ${layer.hidden} units`;
}

function picture(layer, part, steps) {
  const values = layer.parts[part];
  const gate = GATES.includes(part);
  const reach = gate ? 1 : Math.max(...values.flat().map(Math.abs), 1e-9);
  const shown = steps.map(visible);
  const order = layer.direction === "backward" ? "This layer reads from right to left." : "This layer reads from left to right.";
  return el("div", null,
    el("p", null, PARTS[part], " ", order),
    heatMap({
      caption: `${part}${gate ? " gate" : ""} of the ${values.length} units that vary most`,
      columns: shown,
      rows: values.map((row, index) => ({ name: `unit ${layer.units[index]}`, values: row })),
      reach,
      describe: (row, column) => `Unit ${layer.units[row]} at step ${column + 1}, “${shown[column]}”: ${part} ${values[row][column].toFixed(3)}`,
    }));
}

function influence(layer, steps) {
  if (layer.influence === null) return null;
  const end = layer.direction === "backward" ? "first" : "last";
  const low = Math.min(...layer.influence);
  return el("section", null, el("h3", null, "How far back does it remember?"),
    el("p", null, `A small change of the ${layer.kind === "LSTM" ? "cell" : "state"} at one step changes the state at the ${end} `
      + "step that the layer reads. The line shows by how much, relative to that step. Where it is near zero, the gradient has "
      + "vanished: in training, an error at the end could not teach the layer anything about that step."),
    lineChart({ title: `Influence of each step on the ${end} one, between ${low.toPrecision(2)} and ${Math.max(...layer.influence).toPrecision(2)}`,
      xLabel: "step", yLabel: "influence", names: steps, lines: [{ name: "influence", kind: "history", from: 1, values: layer.influence }], low: 0,
      high: Math.max(...layer.influence) * 1.05, height: 200 }));
}

const chosen = { layer: 0, part: "forget" }; // as the reader left it: a new answer has new controls

function render(found) {
  const layers = select(found.layers.map((layer, index) => [index, layerName(layer)]));
  const parts = el("select");
  const pictures = el("div");

  function draw() {
    const layer = found.layers[layers.value];
    const names = Object.keys(layer.parts);
    parts.replaceChildren(...names.map((name) => el("option", null, name)));
    parts.value = names.includes(chosen.part) ? chosen.part : names[0];
    pictures.replaceChildren(picture(layer, parts.value, found.steps), influence(layer, found.steps.map(visible)) ?? "");
  }

  layers.addEventListener("change", () => {
    chosen.layer = layers.value;
    draw();
  });
  parts.addEventListener("change", () => {
    chosen.part = parts.value;
    draw();
  });
  if (chosen.layer < found.layers.length) layers.value = chosen.layer;
  draw();
  return el("div", null, el("div", { class: "choices" }, field("Layer", layers), field("Part", parts)), pictures);
}

export function view(all) {
  const models = all.filter((model) => "fp32" in model.scores && !REFUSED.includes(model.task));
  if (models.length === 0) return null;
  return { name: "inside", title: "Inside", heading: "Look inside a recurrent network", show: (body) => taskView(body, {
    models,
    inputLabel: "Input",
    intro: "A recurrent layer has a state for each step and gates that decide what the state keeps. The heat map shows one "
      + "row for each unit and one column for each step. Blue is positive, orange is negative, and pale is near zero.",
    action: "Look inside",
    request: (model, inputs) => ({ path: "v1/inspect", task: "inspect", body: { model: model.id, inputs } }),
    render,
  }) };
}
