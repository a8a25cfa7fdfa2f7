// The missing word of a sentence, as bars.

import { bars, el } from "./dom.js";
import { taskView } from "./parts.js";

const TOP = 8;

function render(answer) {
  const gaps = Array.isArray(answer[0]) ? answer : [answer];
  return el("div", null, gaps.map((candidates, index) => [
    gaps.length > 1 && el("h3", null, `Gap ${index + 1}`),
    el("p", { class: "result" }, candidates[0].sequence),
    bars(candidates.map((each) => ({ label: each.token_str, score: each.score }))),
  ]));
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("fill"));
  if (models.length === 0) return null;
  return { name: "fill", title: "Fill", heading: "Find the missing word", show: (body) => taskView(body, {
    models,
    inputLabel: "Text with [MASK] where a word is missing",
    intro: "One network reads the words before the gap. Another reads the words after it, backward. Together they predict "
      + "the missing word.",
    request: (model, inputs) => ({ path: "v1/fill", task: "fill", body: { model: model.id, inputs, parameters: { top_k: TOP } } }),
    render,
  }) };
}
