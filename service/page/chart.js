// Charts as SVG. All colors come from the style sheet.

import { el, svg } from "./dom.js";

const WIDEST = 720;
const NAMED = 20; // steps at most whose names are shown below the axis
const MARGIN = { left: 52, right: 12, top: 28, bottom: 40 };

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step);
  const most = Math.floor(high / step + 1e-9) - first + 1; // of large numbers, `first + 1` may be `first`
  return Array.from({ length: Math.max(0, Math.min(most, 2 * count)) || 0 }, (_, index) => (first + index) * step);
}

const shown = (value) => Number(value.toPrecision(4)).toString();

/**
 * Return a figure of lines and areas over whole numbers x.
 * lines: [{ name, kind, from, values }]; areas: [{ name, kind, from, low, high }]; step: between two values. names: what
 * is at x = 1, 2, …
 * The title is shown below the picture.
 */
export function lineChart({ title, xLabel, yLabel, lines, areas = [], step = 1, names, height = 260, low, high }) {
  const width = Math.max(280, Math.min(WIDEST, document.documentElement.clientWidth - 72));
  const most = Math.min(NAMED, Math.floor(width / 34)); // names below the axis
  const xs = [...lines, ...areas].flatMap((each) => [each.from, each.from + step * ((each.values ?? each.low).length - 1)]);
  const ys = [...lines.map((line) => line.values), ...areas.flatMap((area) => [area.low, area.high])]
    .flat().filter((value) => value !== null && Number.isFinite(value));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs, Math.min(...xs) + 1)];
  const [bottom, top] = [low ?? Math.min(...ys), high ?? Math.max(...ys)];
  const pad = low === undefined ? (top - bottom || 1) * 0.06 : 0;
  const [y0, y1] = [bottom - pad, top + pad || 1];
  const x = (value) => MARGIN.left + ((value - x0) / (x1 - x0)) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => height - MARGIN.bottom - ((value - y0) / (y1 - y0 || 1)) * (height - MARGIN.top - MARGIN.bottom);
  const point = (value, index, from) => `${x(from + step * index).toFixed(1)},${y(value).toFixed(1)}`;

  const path = ({ values, from }) => {
    let pen = "M";
    return values.map((value, index) => {
      if (value === null || !Number.isFinite(value)) {
        pen = "M";
        return "";
      }
      const part = pen + point(value, index, from);
      pen = "L";
      return part;
    }).join("");
  };
  const band = ({ low: under, high: over, from }) =>
    `M${over.map((value, index) => point(value, index, from)).join("L")}` +
    `L${under.map((value, index) => point(value, index, from)).reverse().join("L")}Z`;

  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, class: "chart" },
    ticks(y0, y1, 5).map((value) => [
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: MARGIN.left - 6, y: y(value) + 4, class: "tick end" }, shown(value)),
    ]),
    ticks(x0, x1, names?.length <= most ? names.length : Math.round(width / 90)).filter(Number.isInteger).map((value) =>
      svg("text", { x: x(value), y: height - 24, class: "tick middle" }, (names?.length <= most && names[value - 1]) || shown(value))),
    svg("text", { x: width - MARGIN.right, y: height - 6, class: "tick end" },
      names?.length > most ? `${xLabel}, from “${names[0]}” to “${names.at(-1)}”` : xLabel),
    svg("text", { x: 4, y: 14, class: "tick" }, yLabel),
    areas.map((area) => svg("path", { d: band(area), class: `area ${area.kind}` })),
    lines.map((line) => svg("path", { d: path(line), class: `line ${line.kind}` })));
  const legend = [...lines, ...areas].filter((each) => each.name).map((each) =>
    el("li", null, el("span", { class: `key ${each.values ? "line" : "area"} ${each.kind}` }), each.name));
  return el("figure", null, picture, el("figcaption", null, title, legend.length > 1 && el("ul", { class: "legend" }, legend)));
}

/** Return the color of a value in [-1, 1] or [0, 1]: vermilion below zero, blue above (Okabe and Ito 2008). */
export function heatColor(value) {
  const strength = Math.min(1, Math.abs(value));
  return `color-mix(in srgb, var(${value < 0 ? "--heat-low" : "--heat-high"}) ${(100 * strength).toFixed(0)}%, var(--heat-zero))`;
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -Infinity],
  End: [0, Infinity] };

/**
 * Return a heat map as a table: one row of values for each name, one column for each step.
 * `describe(row, column)` is the name of a cell. It is shown for the cell under the pointer or with the focus. The arrow
 * keys move the focus: the map is one stop of the Tab key.
 */
export function heatMap({ caption, columns, rows, reach = 1, describe }) {
  const status = el("p", { class: "status", "aria-hidden": "true" }, "Point at a cell, or use the arrow keys, to read its value.");
  const cells = rows.map((row, r) => row.values.map((value, c) => {
    const cell = el("td", { "data-row": r, "data-column": c, tabindex: r || c ? -1 : 0, "aria-label": describe(r, c) });
    cell.style.backgroundColor = heatColor(value / reach);
    return cell;
  }));
  const turned = columns.some((column) => [...column].length > 2) && "turned";
  const scale = [-1, -0.5, 0, 0.5, 1].filter((value) => value >= 0 || rows.some((row) => Math.min(...row.values) < 0));
  const legend = el("p", { class: "scale" }, scale.map((value) => {
    const color = el("span", { "aria-hidden": "true" });
    color.style.backgroundColor = heatColor(value);
    return el("span", null, color, Number((value * reach).toFixed(2)).toString());
  }));
  const table = el("table", { class: "heat", role: "grid", "aria-label": caption },
    el("thead", null, el("tr", null, el("td"),
      columns.map((column) => el("th", { scope: "col" }, el("span", { class: turned }, column))))),
    el("tbody", null, rows.map((row, r) => el("tr", null, el("th", { scope: "row" }, row.name), cells[r]))));
  table.style.setProperty("--cell", `clamp(0.75rem, (100cqi - 5rem) / ${columns.length} - 1px, 3.2rem)`);
  const read = ({ target }) => {
    if (target.dataset.row) status.textContent = target.getAttribute("aria-label");
  };
  table.addEventListener("pointerover", read);
  table.addEventListener("focusin", (event) => {
    read(event);
    table.querySelector("[tabindex='0']").tabIndex = -1;
    event.target.tabIndex = 0;
  });
  table.addEventListener("keydown", (event) => {
    if (!(event.key in MOVES) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // the map would scroll too
    const [down, right] = MOVES[event.key];
    const { row, column } = event.target.dataset;
    const within = (index, count) => Math.max(0, Math.min(count - 1, index));
    cells[within(Number(row) + down, rows.length)][within(Number(column) + right, columns.length)].focus();
  });
  const box = el("div", { class: "scroll" }, table);
  const more = el("p", { class: "hint", hidden: true }, `Scroll the map to see all ${rows.length} rows and ${columns.length} columns.`);
  new ResizeObserver(() => {
    more.hidden = box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight;
  }).observe(box);
  return el("figure", null, el("figcaption", null, caption), more, status, box, legend);
}
