// Small helpers to build the page. Text is always set as text, so answers cannot inject markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

/** Return a new HTML element. Attributes that begin with "on" are event listeners. */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** Return a new SVG element. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

let labels = 0;

/** Return a labeled form control. */
export function field(label, control, hint) {
  control.id ||= `control-${(labels += 1)}`;
  const about = hint && el("small", { id: `${control.id}-hint` }, hint);
  if (about) control.setAttribute("aria-describedby", about.id);
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control, about);
}

/** Return a select with these options: [value, label] pairs. */
export function select(options, attributes) {
  return el("select", attributes, options.map(([value, label]) => el("option", { value }, label)));
}

/** Return a number input. */
export const number = (value, attributes) => el("input", { type: "number", value, ...attributes });

/** Return a list of horizontal bars, for scores between 0 and 1. */
export function bars(rows) {
  return el("ol", { class: "bars" }, rows.map(({ label, score }) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.inlineSize = percent(score);
    return el("li", null, el("span", { class: "bar-label" }, label), el("span", { class: "track" }, bar),
      el("span", { class: "bar-score" }, percent(score)));
  }));
}

export const percent = (share) => `${(100 * share).toFixed(1)}%`;

/** Return the classes of the color that stands for a label. Colors repeat after eight; the label is always shown. */
export const colorOf = (labelsOfModel, label) => `color-${Math.max(0, labelsOfModel.indexOf(label)) % 8}`;

/** Return a function that calls `action` when it has not been called for `ms` milliseconds. */
export function debounced(action, ms) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, ms);
  };
}
