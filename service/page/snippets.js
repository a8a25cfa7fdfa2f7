// The request of a view as code: curl, Python with the task's usual client, and JavaScript.

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** Return a value as a Python literal. */
function python(value) {
  if (value === null || Number.isNaN(value)) return "None"; // a number field that is empty
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${python(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}

const keywords = (values) => Object.entries(values ?? {}).map(([name, value]) => `, ${name}=${python(value)}`).join("");

const KEY = "API_KEY"; // the variable of the environment that the code reads the API key from

function hub(method, base, { model, body, key }) {
  return `${key ? "import os\n\n" : ""}from huggingface_hub import InferenceClient  # pip install huggingface_hub

client = InferenceClient(model="${base}models/${model.id}"${key ? `, token=os.environ["${KEY}"]` : ""})
print(client.${method}(${python(body.inputs)}${keywords(body.parameters)}))`;
}

const PYTHON = {
  tag: (base, request) => hub("token_classification", base, request),
  classify: (base, request) => hub("text_classification", base, request),
  generate: (base, request) => hub("text_generation", base, request),
  fill: (base, request) => hub("fill_mask", base, request),
  translate: (base, request) => hub("translation", base, request),
};

function urllib(base, { path, body, key }) {
  return `import json
${key ? "import os\n" : ""}from urllib.request import Request, urlopen

body = ${python(body)}
request = Request("${base}${path}", json.dumps(body).encode(), {"Content-Type": "application/json"${
    key ? `, "Authorization": "Bearer " + os.environ["${KEY}"]` : ""}})
print(json.load(urlopen(request)))`;
}

/** Return the code of one request, by language. request: path, body, model, task, and whether it needs a key. */
export function snippets(base, request) {
  const { path, body, task, key } = request;
  const json = JSON.stringify(body);
  const text = typeof body.inputs === "string";
  return {
    curl: `curl ${base}${path} ${key ? `-H "authorization: Bearer $${KEY}" ` : ""}-H 'content-type: application/json' -d ${quoted(json)}`,
    Python: text && PYTHON[task] ? PYTHON[task](base, request) : urllib(base, request),
    JavaScript: `const response = await fetch("${base}${path}", {
  method: "POST",
  headers: { "content-type": "application/json"${key ? `, authorization: \`Bearer \${process.env.${KEY}}\`` : ""} },
  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),
});
console.log(await response.json());`,
  };
}
