// The form of tasks that search a text with beams, and the texts of their answers.

import { el, field, number, select } from "./dom.js";
import { taskView } from "./parts.js";

const RETURNED = 3;

const languages = ({ source, target }) => ({ src_lang: source, tgt_lang: target });

const textOf = (each) => each.translation_text ?? each.generated_text;

/** Return the best text, and the others behind a summary. `what` names them. */
export function answerTexts([best, ...others], what) {
  return el("div", null, el("p", { class: "result" }, textOf(best) || "The text is empty."),
    others.length > 0 && el("details", null, el("summary", null, `Other ${what}`),
      el("ol", null, others.map((each) => el("li", null, textOf(each),
        el("small", null, ` score ${each.details.score.toFixed(2)}, the first one has ${best.details.score.toFixed(2)}`))))));
}

const pairsField = (pairs) => field("Languages", select(pairs.map(({ source, target }, index) =>
  [index, `${source} to ${target}`]), { name: "pair" }));

/** Return a function that shows the form of a task and its answer: see `taskView`. */
export const searchView = (task, options) => (body) => taskView(body, {
  parameters: ({ pairs }) => [
    ...(pairs.length > 1 ? [pairsField(pairs)] : []),
    field("Beams", number(5, { name: "beams", min: 1, max: 16 }), "Beginnings kept at each step"),
  ],
  request: (model, inputs, form) => ({ path: `v1/${task}`, task, body: { model: model.id, inputs, parameters: {
    ...(form.pair && languages(model.pairs[form.pair.value])),
    generate_parameters: { num_beams: form.beams.valueAsNumber, details: true,
      num_return_sequences: Math.min(RETURNED, form.beams.valueAsNumber) } } } }),
  ...options,
});
