// Words are labeled while you type them: one step of the network for each word.

import { socket } from "./api.js";
import { debounced, el, field, select } from "./dom.js";
import { modelCard } from "./parts.js";
import { kindsOf, labeled } from "./view-tag.js";

const CLOSED = { 1006: "The service refused the connection, or it is not running.", 1012: "The service is restarting.",
  4401: "The API key is no longer valid.", 4408: "The service closed the stream because nothing was typed for a while." };

function show(body, models) {
  let model = models[0];
  let connection = null;
  let sent = []; // the words of the field that were sent
  let times = []; // when each message was sent that has no answer yet
  let failed = false;
  const words = el("p", { class: "tagged", "aria-live": "polite" });
  const status = el("p", { class: "timing", role: "status" });
  const about = el("div");
  const chooser = select(models.map((each) => [each.id, each.id]), { name: "model" });
  const input = el("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "Type a sentence …" });

  const reopen = debounced(() => connection && open(), 200);
  const complete = () => input.value.split(/\s+/).filter(Boolean).slice(0, /\s$/.test(input.value) ? undefined : -1);

  function open() {
    connection?.close();
    const mine = connection = socket("v1/stream");
    sent = [];
    times = [];
    failed = false;
    words.replaceChildren();
    mine.addEventListener("open", () => {
      status.textContent = "Connected.";
      ask({ model: model.id });
      push();
    });
    mine.addEventListener("message", ({ data }) => {
      if (mine !== connection) return;
      const answer = JSON.parse(data);
      const ms = performance.now() - times.shift(); // each message has one answer, in order
      if (answer.error) {
        failed = true; // words are missing, so that the next labels would be wrong
        return fail(answer.error.detail);
      }
      for (const { word, entity, score } of answer.entities ?? []) words.append(labeled(word, entity, score, kindsOf(model)), " ");
      if (answer.entities) {
        status.textContent = `Labeled in ${ms.toFixed(1)} ms. The state has read ${answer.steps} words.`;
      }
    });
    mine.addEventListener("close", ({ code, reason }) => {
      if (mine !== connection) return;
      if (!failed) fail(CLOSED[code] ?? (reason || "The connection was closed."));
    });
  }

  function fail(why) {
    status.replaceChildren(el("span", { class: "problem" }, why), " ",
      el("button", { type: "button", class: "quiet", onclick: open }, "Connect again"));
  }

  function ask(message) {
    times.push(performance.now());
    connection.send(JSON.stringify(message));
  }

  function push() {
    const done = complete();
    if (sent.some((word, index) => word !== done[index])) return reopen(); // the state has read words that were changed
    if (failed || done.length === sent.length || connection.readyState !== WebSocket.OPEN) return;
    ask({ inputs: done.slice(sent.length) });
    sent = done;
  }

  function choose() {
    model = models.find((each) => each.id === chooser.value);
    about.replaceChildren(modelCard(model));
    open();
  }

  chooser.addEventListener("change", choose);
  input.addEventListener("input", push);
  body.append(
    el("p", { class: "intro" }, "This network reads from left to right and keeps a state. Each new word costs one step, "
      + "however long the text is. It cannot see the words that follow, so a first word such as “book” is hard for it."),
    el("div", { class: "panel" }, field("Model", chooser), field("Text", input,
      "A word is labeled when a space follows it.")),
    el("section", { class: "answer", "aria-label": "Answer" }, words, status), about);
  input.value = "Book a flight to London . ";
  choose();
  return () => {
    const mine = connection;
    connection = null;
    mine.close();
  };
}

export function view(all) {
  const models = all.filter((model) => model.streams && model.codec === "words");
  if (models.length === 0) return null;
  return { name: "live", title: "Live", heading: "Label words as you type", show: (body) => show(body, models) };
}
