// Translations with their alternatives, and what the decoder attended to.

import { heatMap } from "./chart.js";
import { answerTexts, searchView } from "./search.js";

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

function render(answer) {
  const shown = answerTexts(answer, "translations");
  if (answer[0].details.tokens.length > 0) shown.append(attentionMap(answer[0].details));
  return shown;
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("translate"));
  if (models.length === 0) return null;
  return { name: "translate", title: "Translate", heading: "Translate a sentence",
    show: searchView("translate", { models, render, intro: "One network reads the sentence. Another writes the "
      + "translation piece by piece. At each piece, its attention weighs the words of the sentence." }) };
}
