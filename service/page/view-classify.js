// Classes of a whole input, as bars.

import { bars, el } from "./dom.js";
import { taskView } from "./parts.js";

const SHOWN = 8;

const labelsOf = (model) => model.text_labels.length ? model.text_labels : model.labels; // a joint model has both

function render([row], { model }) {
  if (row.length === 0) return el("p", null, "An empty input has no class.");
  const hidden = labelsOf(model).length - SHOWN;
  return el("div", null, el("p", { class: "result" }, row[0].label), bars(row.slice(0, SHOWN)),
    hidden > 0 && el("p", null, el("small", null, `${hidden} less likely labels are not shown.`)));
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("classify"));
  if (models.length === 0) return null;
  return { name: "classify", title: "Classify", heading: "Classify a whole input", show: (body) => taskView(body, {
    models,
    intro: "The network reads the whole input before it answers. The bars are probabilities that add up to 100%.",
    request: (model, inputs) => ({ path: "v1/classify", task: "classify", body: { model: model.id, inputs,
      parameters: { top_k: Math.min(SHOWN, labelsOf(model).length) } } }),
    render,
  }) };
}
