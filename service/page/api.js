// Requests to the service. The API key is kept in this module's memory only: a reload forgets it.

let key = "";
let askForKey = null; // set by app.js: shows the form and resolves when a key was entered
let asking = null; // the promise of the form that is shown: requests that need a key at the same time share it

/** The address of the service, with the prefix of a proxy if there is one. */
export const BASE = new URL(".", document.baseURI).href;

export const setKey = (value) => { key = value; };
export const hasKey = () => key !== "";
export const onMissingKey = (ask) => { askForKey = ask; };

/** An answer with an error status: its problem document, or the network's message. */
export class Problem extends Error {
  constructor(status, problem, headers) {
    super(problem.detail ?? problem.title ?? `status ${status}`);
    this.status = status;
    this.problem = problem;
    this.headers = headers;
  }
}

async function problemOf(response) {
  let problem = { title: response.statusText };
  try {
    problem = await response.json();
  } catch {
    // not JSON: the status has to do
  }
  return new Problem(response.status, problem, response.headers);
}

/** Return a function that reports a failure of the network, but not that the page ended the request. */
const failure = (detail) => (error) => {
  throw error.name === "AbortError" ? error : new Problem(0, { title: "No answer", detail });
};
const unreachable = failure("The service does not answer. Check that it is running.");
const cutOff = failure("The connection was lost before the whole answer had arrived. Try again.");

async function send(path, options) {
  for (;;) {
    const used = key;
    const headers = { ...options.headers, ...(used && { authorization: `Bearer ${used}` }) };
    const response = await fetch(new URL(path, BASE), { ...options, headers }).catch(unreachable);
    if (response.status !== 401 || !askForKey) return response;
    if (used === key) await (asking ??= askForKey(hasKey()).finally(() => { asking = null; }));
  }
}

const post = (path, body, signal) =>
  send(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

/** Return the JSON of a GET. */
export async function get(path) {
  const response = await send(path, {});
  if (!response.ok) throw await problemOf(response);
  return response.json().catch(cutOff);
}

/** Return the text of a GET. */
export async function getText(path) {
  const response = await send(path, {});
  if (!response.ok) throw await problemOf(response);
  return response.text().catch(cutOff);
}

/** Return the answer to a request and how long it took. */
export async function call(path, body, signal) {
  const started = performance.now();
  const response = await post(path, body, signal);
  if (!response.ok) throw await problemOf(response);
  return { answer: await response.json().catch(cutOff), timing: timingOf(response, performance.now() - started) };
}

/** Call `onEvent` with each token, until the one that has the whole text. Returns how long the first byte took. */
export async function stream(path, body, onEvent, signal) {
  const started = performance.now();
  const response = await post(path, body, signal);
  if (!response.ok) throw await problemOf(response);
  const timing = timingOf(response, performance.now() - started);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let complete = false;
  for (;;) {
    const { done, value } = await reader.read().catch(cutOff);
    if (done) return complete ? timing : cutOff(new Error("the stream has ended without its last event"));
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const text of events) {
      const data = text.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (!data) continue;
      if (text.startsWith("event: error")) {
        const problem = JSON.parse(data);
        throw new Problem(problem.status, problem, response.headers);
      }
      const event = JSON.parse(data);
      complete = event.generated_text !== null;
      onEvent(event);
    }
  }
}

/** Parse Server-Timing: `queue;dur=0.1, compute;dur=1.2, batch;desc="3"`. */
function timingOf(response, totalMs) {
  const timing = { totalMs };
  for (const part of (response.headers.get("server-timing") ?? "").split(",")) {
    const [name, value] = part.trim().split(";");
    if (value) timing[name] = value.split("=")[1].replaceAll('"', "");
  }
  return timing;
}

/** Open a WebSocket on a path of the service. The only header that a page can set is the list of protocols. */
export function socket(path) {
  const url = new URL(path, BASE);
  url.protocol = url.protocol.replace("http", "ws");
  const encoded = () => btoa(String.fromCharCode(...new TextEncoder().encode(key)))
    .replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return new WebSocket(url, key ? ["seqserve", `base64url.bearer.${encoded()}`] : ["seqserve"]);
}
