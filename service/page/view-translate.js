// Translations with their alternatives, and what the decoder attended to.

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
    describe: (row, column) => `“${rows[row].name}” looks at “${columns[column]}”: ${rows[row].values[column].toFixed(2)}`,
  });
}

function render(answer) {
  const [best, ...others] = answer;
  if (best.translation_text === "") return el("p", null, "The translation is empty.");
  return el("div", null, el("p", { class: "result" }, best.translation_text),
    others.length > 0 && el("details", null, el("summary", null, "Other translations"),
      el("ol", null, others.map((each) => el("li", null, each.translation_text,
        el("small", null, ` score ${each.details.score.toFixed(2)}, the first one has ${best.details.score.toFixed(2)}`))))),
    best.details.source_tokens && attentionMap(best.details));
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("translate"));
  if (models.length === 0) return null;
  return { name: "translate", title: "Translate", heading: "Translate a sentence", show: (body) => taskView(body, {
    models,
    intro: "One network reads the sentence. Another writes the translation piece by piece. At each piece, its attention "
      + "weighs the words of the sentence. These models have learned from captions of pictures.",
    parameters: ({ pairs }) => [
      pairs.length > 1 && field("Languages", select(pairs.map(({ source, target }, index) => [index, `${source} to ${target}`]), { name: "pair" })),
      field("Beams", number(5, { name: "beams", min: 1, max: 16 }), "How many beginnings are kept while it writes"),
    ].filter(Boolean),
    request: (model, inputs, form) => ({ path: "v1/translate", task: "translate", body: { model: model.id, inputs,
      parameters: { ...(form.pair && languages(model.pairs[form.pair.value])), generate_parameters: { num_beams: form.beams.valueAsNumber, details: true,
        num_return_sequences: Math.min(RETURNED, form.beams.valueAsNumber) } } } }),
    render,
  }) };
}
