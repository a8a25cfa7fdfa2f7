// Translations and captions with their alternatives, and what the decoder attended to.

import { heatMap } from "./chart.js";
import { el, field, number, select } from "./dom.js";
import { taskView } from "./parts.js";

const RETURNED = 3;

const languages = ({ source, target }) => ({ src_lang: source, tgt_lang: target });

function attentionMap(details) {
  const rows = details.tokens.map((token, place) => ({ name: token.text.trim() || "·", values: details.attention[place] }));
  const columns = details.source_tokens.map((token) => token.text);
  return heatMap({
    caption: "Attention: what the network looked at (columns) when it wrote each piece (rows)",
    columns,
    rows,
    describe: (row, column) => `“${rows[row].name}” looks at “${columns[column]}”: ${rows[row].values[column].toFixed(3)}`,
  });
}

const textOf = (each) => each.translation_text ?? each.generated_text;

function render(answer) {
  const [best, ...others] = answer;
  return el("div", null, el("p", { class: "result" }, textOf(best) || "The text is empty."),
    others.length > 0 && el("details", null, el("summary", null, `Other ${best.translation_text === undefined ? "captions" : "translations"}`),
      el("ol", null, others.map((each) => el("li", null, textOf(each),
        el("small", null, ` score ${each.details.score.toFixed(2)}, the first one has ${best.details.score.toFixed(2)}`))))),
    best.details.source_tokens && best.details.tokens.length > 0 && attentionMap(best.details));
}

const pairsField = (pairs) => field("Languages", select(pairs.map(({ source, target }, index) =>
  [index, `${source} to ${target}`]), { name: "pair" }));

/** Show the form of a task that searches a text with beams. */
const search = (task, options) => (body) => taskView(body, {
  parameters: ({ pairs }) => [
    ...(pairs.length > 1 ? [pairsField(pairs)] : []),
    field("Beams", number(5, { name: "beams", min: 1, max: 16 }), "Beginnings kept at each step"),
  ],
  request: (model, inputs, form) => ({ path: `v1/${task}`, task, body: { model: model.id, inputs, parameters: {
    ...(form.pair && languages(model.pairs[form.pair.value])),
    generate_parameters: { num_beams: form.beams.valueAsNumber, details: true,
      num_return_sequences: Math.min(RETURNED, form.beams.valueAsNumber) } } } }),
  render,
  ...options,
});

export function view(all) {
  const [translators, captioners] = ["translate", "caption"].map((task) => all.filter((model) => model.tasks.includes(task)));
  return [
    translators.length > 0 && { name: "translate", title: "Translate", heading: "Translate a sentence",
      show: search("translate", { models: translators, intro: "One network reads the sentence. Another writes the "
        + "translation piece by piece. At each piece, its attention weighs the words of the sentence." }) },
    captioners.length > 0 && { name: "caption", title: "Caption", heading: "Describe an input in words",
      show: search("caption", { models: captioners, intro: "One network reads vectors of numbers, such as those "
        + "that another network makes of a picture. Another one writes a text piece by piece." }) },
  ].filter(Boolean);
}
