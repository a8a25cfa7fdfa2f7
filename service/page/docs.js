// The reference of the routes: docs.json, as people read it.

import { BASE, get, hasKey, onMissingKey } from "./api.js";
import { el } from "./dom.js";
import { keyForm, problemBox } from "./parts.js";
import { snippets } from "./snippets.js";

const main = document.getElementById("main");
const LONG = 600; // characters of an example that is shown

const slug = (text) => text.toLowerCase().replaceAll(/[^a-z]+/g, "-");

/** Return a text in which `code` is marked, as in Markdown. */
const marked = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", null, part) : part));

/** Return a text with a full stop at its end. */
const sentence = (text) => text && !/[.!?]$/.test(text) ? `${text}.` : text;

/** Return what a schema allows, in a few words. */
function typeOf(schema, schemas) {
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.anyOf ?? schema.oneOf) {
    return [...new Set((schema.anyOf ?? schema.oneOf).map((each) => typeOf(each, schemas)))].filter((type) => type !== "null").join(" or ");
  }
  if (schema.type === "array") return schema.items ? `list of ${typeOf(schema.items, schemas)}` : "list";
  const bounds = [
    schema.minimum !== undefined && `at least ${schema.minimum}`,
    schema.exclusiveMinimum !== undefined && `over ${schema.exclusiveMinimum}`,
    schema.maximum !== undefined && `at most ${schema.maximum}`,
  ].filter(Boolean);
  return [schema.type ?? "any value", ...bounds].join(", ");
}

function fields(schema, schemas) {
  const found = schema?.$ref ? schemas[schema.$ref.split("/").at(-1)] : schema;
  const rows = Object.entries(found?.properties ?? {});
  if (rows.length === 0) return null;
  const nested = rows.flatMap(([, each]) => [each, ...(each.anyOf ?? [])])
    .filter((each) => each.$ref && schemas[each.$ref.split("/").at(-1)]?.properties)
    .map((each) => [el("h4", null, each.$ref.split("/").at(-1)), fields(each, schemas)]);
  return el("div", null, el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Fields of ${found.title ?? "the body"}` },
    el("table", null, el("thead", null, el("tr", null, ["Field", "Type", "Meaning"].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", null, rows.map(([name, each]) => el("tr", null,
        el("th", { scope: "row" }, el("code", null, name), found.required?.includes(name) && " (required)"),
        el("td", null, typeOf(each, schemas)),
        el("td", null, marked(sentence(each.description ?? "")), each.default !== undefined && each.default !== null &&
          ` Default: ${JSON.stringify(each.default)}.`)))))), nested);
}

/** Return a path with the values of an example for its parameters. */
const exampleOf = (path, parameters, name) => path.replaceAll(/\{(\w+)\}/g, (whole, parameter) => encodeURIComponent(
  parameters.find((each) => each.in === "path" && each.name === parameter)?.examples?.[name]?.value ?? whole));

function operation(path, method, found, schemas) {
  const content = found.requestBody?.content["application/json"];
  const [name, example] = Object.entries(content?.examples ?? {})[0] ?? [];
  const code = example && snippets(BASE, { path: exampleOf(path, found.parameters, name).slice(1), body: example.value,
    model: { id: name }, key: hasKey() }).curl;
  return el("details", { class: "route" },
    el("summary", null, el("code", null, el("b", null, method.toUpperCase()), ` ${path}`), " ", marked(found.summary)),
    found.description && el("p", null, marked(found.description)),
    code && code.length < LONG && el("pre", { tabindex: "0", role: "region", "aria-label": "Example" }, el("code", null, code)),
    content && fields(content.schema, schemas),
    el("p", null, "Statuses: ", Object.entries(found.responses).map(([status]) => status).join(", ")));
}

async function start() {
  onMissingKey((wasWrong) => keyForm(main, wasWrong));
  let found;
  try {
    found = await get("docs.json");
  } catch (problem) {
    main.replaceChildren(el("h1", null, "The document cannot be loaded"), problemBox(problem));
    return;
  }
  const groups = new Map();
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, each] of Object.entries(methods)) {
      if (method === "head") continue;
      const group = each.tags?.[0] ?? "Other";
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(operation(path, method, each, found.components.schemas));
    }
  }
  document.getElementById("views").replaceChildren(...[...groups.keys()].map((group) =>
    el("li", null, el("a", { href: `#${slug(group)}` }, group))));
  main.replaceChildren(el("h1", null, "The routes of this service"),
    el("p", null, "Clients for other languages can be made from the ", el("a", { href: "docs.json" }, "OpenAPI document"), "."),
    ...[...groups].flatMap(([group, routes]) => [el("h2", { id: slug(group) }, group), ...routes]));
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

start();
