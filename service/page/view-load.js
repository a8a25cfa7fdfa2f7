// The load of the service, from its metrics.

import { getText } from "./api.js";
import { lineChart } from "./chart.js";
import { el, percent } from "./dom.js";
import { problemBox } from "./parts.js";

const INTERVAL_S = 2;
const KEPT = 60;

/** Return the samples of a Prometheus text: name -> list of { labels, value }. */
export function parseMetrics(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const parts = /^([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!parts) continue;
    const labels = Object.fromEntries([...(parts[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((each) => each.slice(1)));
    if (!found.has(parts[1])) found.set(parts[1], []);
    found.get(parts[1]).push({ labels, value: Number(parts[3]) });
  }
  return found;
}

const sum = (metrics, name) => (metrics.get(name) ?? []).reduce((total, { value }) => total + value, 0);

/** Return the cumulative counts of a histogram over all labels: [upper bound, count] pairs. */
function buckets(metrics, name) {
  const counts = new Map();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  return [...counts].sort(([a], [b]) => a - b);
}

/** Return a quantile of what a histogram counted since `before`, interpolated within its bucket. */
export function quantile(now, before, q) {
  const old = new Map(before);
  const counts = now.map(([bound, count]) => [bound, count - (old.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  let [low, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= q * total) return bound === Infinity ? low : low + ((q * total - below) / (count - below || 1)) * (bound - low);
    [low, below] = [bound, count];
  }
  return low;
}

const ms = (seconds) => seconds === null ? "–" : `${(1000 * seconds).toFixed(1)} ms`;

function show(body) {
  const tiles = el("dl", { class: "tiles" });
  const chart = el("div");
  const problem = el("div");
  const rates = [];
  let before = null;
  let stopped = false;

  async function refresh() {
    const now = { at: performance.now(), metrics: parseMetrics(await getText("metrics")) };
    if (before) {
      const seconds = (now.at - before.at) / 1000;
      const change = (name) => sum(now.metrics, name) - sum(before.metrics, name);
      const rate = Math.max(0, change("seqserve_requests_total")) / seconds; // a restart begins at zero
      const time = ["seqserve_request_seconds", "seqserve_queue_seconds"].map((name) =>
        [buckets(now.metrics, name), buckets(before.metrics, name)]);
      const padded = change("seqserve_padded_tokens_total");
      const rows = [
        ["Requests per second", rate.toFixed(1)],
        ["p50", ms(quantile(...time[0], 0.5))],
        ["p99", ms(quantile(...time[0], 0.99))],
        ["p99 in the queue", ms(quantile(...time[1], 0.99))],
        ["Waiting inputs", String(sum(now.metrics, "seqserve_queue_items"))],
        ["Padding", padded > 0 ? percent(1 - change("seqserve_processed_tokens_total") / padded) : "–"],
      ];
      tiles.replaceChildren(...rows.map(([name, value]) => el("div", null, el("dt", null, name), el("dd", null, value))));
      rates.push(rate);
      if (rates.length > KEPT) rates.shift();
      chart.replaceChildren(lineChart({ title: "Requests per second, up to two minutes back", xLabel: "seconds",
        yLabel: "requests per second", step: INTERVAL_S, lines: [{ name: "requests per second", kind: "history",
          from: INTERVAL_S * (1 - rates.length), values: rates }], low: 0, high: Math.max(1, ...rates) * 1.1, height: 200 }));
    }
    before = now;
    problem.replaceChildren();
  }

  async function repeat() {
    let failed = null;
    while (!stopped) {
      try {
        await refresh();
        failed = null;
      } catch (error) {
        if (error.message !== failed) problem.replaceChildren(problemBox(error)); // screen readers read it once
        failed = error.message;
      }
      await new Promise((resolve) => setTimeout(resolve, failed !== null || rates.length ? 1000 * INTERVAL_S : 500));
    }
  }

  body.append(
    el("p", { class: "intro" }, "These figures come from the service's Prometheus metrics and cover the last two seconds "
      + "of all workers. Padding is the share of computed steps that belong to no input."),
    el("section", { class: "panel", "aria-label": "Figures" }, tiles, chart, problem));
  repeat();
  return () => {
    stopped = true;
  };
}

export function view() {
  return { name: "load", title: "Load", heading: "What the service is doing now", show };
}
