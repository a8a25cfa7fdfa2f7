// Tags: every word with its label, or spans in the text.

import { colorOf, el, percent } from "./dom.js";
import { taskView } from "./parts.js";

const kindOf = (label) => label.replace(/^[BI]-/, "");
export const kindsOf = (model) => [...new Set(model.labels.map(kindOf))].sort();
const hasSpans = (model) => model.labels.some((label) => label.startsWith("B-"));

/** Return a word or span with its label. */
export function labeled(text, label, score, kinds) {
  return el("mark", { class: label === "O" ? "outside" : colorOf(kinds, kindOf(label)), title: `${label}, ${percent(score)}` },
    text, label !== "O" && el("span", { class: "label" }, label));
}

function inText(text, entities, kinds) {
  const parts = [];
  let end = 0;
  const characters = [...text]; // offsets count code points, JavaScript counts UTF-16 units
  const slice = (from, to) => characters.slice(from, to).join("");
  for (const entity of entities) {
    parts.push(slice(end, entity.start),
      labeled(slice(entity.start, entity.end), entity.entity_group ?? entity.entity, entity.score, kinds));
    end = entity.end;
  }
  return el("p", { class: "tagged" }, parts, slice(end));
}

const rounded = (time) => Number(time.toFixed(2));

function onFrames(entities, kinds, count, unit) {
  const strip = el("ol", { class: "strip" }, entities.map((entity) => {
    const label = entity.entity_group ?? entity.entity;
    const part = el("li", { class: colorOf(kinds, label) },
      el("span", { class: "label" }, label), el("small", null, `${rounded(entity.start)}–${rounded(entity.end)}${unit}`));
    part.style.flexGrow = 1000 * (entity.end - entity.start); // a sum below 1 would leave space
    return part;
  }));
  return el("div", null, strip, el("p", null, `Frames: ${count}. Segments: ${entities.length}.`));
}

function render(answer, { model, input }) {
  const kinds = kindsOf(model);
  if (answer.length === 0) return el("p", null, "The model found nothing to label in this input.");
  if (typeof input !== "string") return onFrames(answer, kinds, input.length, model.frame_rate ? " s" : "");
  return el("div", null, inText(input, answer, kinds), el("details", null, el("summary", null, "As a table"),
    el("table", null, el("thead", null, el("tr", null,
      ["Text", "Label", "Score"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", null, answer.map((each) => el("tr", null, el("td", null, each.word),
      el("td", null, each.entity_group ?? each.entity), el("td", null, percent(each.score))))))));
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("tag"));
  if (models.length === 0) return null;
  return { name: "tag", title: "Tag", heading: "Label each part of an input", show: (body) => taskView(body, {
    models,
    intro: "A network gives each step of the input a label: each word, character or frame. Models for streams read "
      + "forward, the others in both directions. The score is the model's probability that the label is right.",
    request: (model, inputs) => ({ path: "v1/tag", task: "tag", body: { model: model.id, inputs, parameters: {
      aggregation_strategy: hasSpans(model) || model.codec === "frames" ? "simple" : "none" } } }),
    render,
  }) };
}
