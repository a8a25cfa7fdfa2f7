// Captions of pictures and of vectors. A picture is shown once for each piece, light where the network looked.

import { el, field } from "./dom.js";
import { answerTexts, searchView } from "./search.js";

const SIDE = 256; // pixels of the longer side of a picture that is sent
const THUMBNAIL = 96; // pixels of a side of the picture for one piece
const DARKEST = 0.75; // opacity of the shade where the network did not look

const bitmapOf = (base64) => createImageBitmap(new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))]));

/** Draw a picture into a canvas, scaled to its size. */
function draw(canvas, bitmap) {
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return context;
}

/** Return a picture as PNG in base64, with the longer side cut to SIDE: a service refuses large ones. */
async function shrunk(file) {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw Object.assign(new Error("The file is not a picture. Choose another one."),
      { problem: { title: "The file cannot be shown" }, status: 0 });
  });
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = el("canvas", { width: Math.ceil(scale * bitmap.width), height: Math.ceil(scale * bitmap.height) });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/png").split(",")[1];
}

/** Return what replaces the text field for a model of pictures: the picture, and a field for a file. */
function pictureEditor(model, { set, fail }) {
  if (model.codec !== "image") return null;
  const shown = el("canvas", { width: SIDE, height: SIDE, class: "picture", role: "img", "aria-label": "The picture" });
  const file = el("input", { type: "file", accept: "image/*", onchange: async () => {
    try {
      const value = await shrunk(file.files[0]);
      draw(shown, await bitmapOf(value));
      set(value);
    } catch (error) {
      fail(error);
    }
  } });
  return {
    element: el("div", null, shown, field("Your picture", file, "It is scaled to the square that the network reads.")),
    show: async (value) => {
      file.value = "";
      draw(shown, await bitmapOf(value));
    },
  };
}

/** Return the picture for one piece: darker, the less the network looked. */
function attended(bitmap, token, weights) {
  const grid = Math.round(Math.sqrt(weights.length));
  const canvas = el("canvas", { width: THUMBNAIL, height: THUMBNAIL });
  const context = draw(canvas, bitmap);
  const most = Math.max(...weights);
  const cell = THUMBNAIL / grid;
  weights.forEach((weight, patch) => {
    context.fillStyle = `rgb(0 0 0 / ${DARKEST * (1 - weight / most)})`;
    context.fillRect(cell * (patch % grid), cell * Math.floor(patch / grid), cell, cell);
  });
  const patch = weights.indexOf(most);
  const place = `row ${Math.floor(patch / grid) + 1}, column ${(patch % grid) + 1} of ${grid}`;
  return el("li", null, canvas, el("span", null, token.text.trim() || "·"),
    el("small", { class: "hidden" }, ` looks most at ${place}`));
}

function render(answer, { model, input }) {
  const shown = answerTexts(answer, "captions");
  const { tokens, attention } = answer[0].details;
  if (model.codec !== "image" || tokens.length === 0) return shown;
  const list = el("ol", { class: "attended" });
  bitmapOf(input).then((bitmap) => list.replaceChildren(...tokens.map((token, place) =>
    attended(bitmap, token, attention[place]))));
  shown.append(el("figure", null, el("figcaption", null, "Attention: where the network looked when it wrote each piece"), list));
  return shown;
}

export function view(all) {
  const models = all.filter((model) => model.tasks.includes("caption"));
  if (models.length === 0) return null;
  const pictures = models.some((model) => model.codec === "image");
  return { name: "caption", title: "Caption", heading: pictures ? "Describe a picture in words" : "Describe an input in words",
    show: searchView("caption", { models, render, editor: pictureEditor, intro: pictures
      ? "One network reads the picture. Another writes a text piece by piece. At each piece, its attention weighs the parts of "
        + "the picture."
      : "One network reads vectors of numbers, such as those that another network makes of a picture. Another one writes a "
        + "text piece by piece." }) };
}
