// Shows openapi.json: every route with its fields, examples and answers, and lets it be tried. Nothing comes from another host.

const FILE = "<file>"; // what stands for a file in examples
const element = (id) => document.getElementById(id);
let ids = 0;

/** An element with attributes and children; strings become text, so nothing of the document is read as HTML. */
function make(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== undefined) {
      made.setAttribute(key, value === true ? "" : value);
    }
  }
  made.append(...children);
  return made;
}

function field(words, input, hint) {
  const id = `field-${ids++}`;
  input.id = id;
  const label = make("label", { class: "field", for: id }, words);
  if (hint) {
    label.append(make("span", { class: "hint" }, hint));
  }
  label.append(input);
  return label;
}

const pretty = (value) => JSON.stringify(value, null, 2);

function kindOf(schema) {
  if (schema.const !== undefined) {
    return JSON.stringify(schema.const);
  }
  if (schema.enum !== undefined) {
    return schema.enum.map((each) => JSON.stringify(each)).join(" or ");
  }
  if (schema.anyOf !== undefined) {
    return schema.anyOf.filter(({ type }) => type !== "null").map(kindOf).join(" or ");
  }
  return schema.format === "binary" ? "file" : (schema.type ?? "");
}

function fieldTable(schema) {
  const rows = Object.entries(schema.properties).map(([name, about]) => {
    const needed = schema.required?.includes(name) ? ", needed" : "";
    const plain = about.default !== undefined && about.default !== null ? `, else ${JSON.stringify(about.default)}` : "";
    const words = [about.description, `(${kindOf(about)}${needed}${plain})`].filter(Boolean).join(" ");
    return make("tr", {}, make("th", { scope: "row" }, make("code", {}, name)), make("td", {}, words));
  });
  return make("table", {}, make("tbody", {}, ...rows));
}

function answerTable(responses) {
  const rows = Object.entries(responses).map(([status, { description, content = {} }]) => {
    const shown = make("td", {}, description);
    for (const [media, { example, examples = {} }] of Object.entries(content)) {
      if (example !== undefined) {
        shown.append(make("pre", { tabindex: "0", "aria-label": `Example of ${status}` }, pretty(example)));
      } else if (Number(status) < 400) {
        shown.append(` (${media})`);
      }
      for (const { value } of Object.values(examples)) {
        shown.append(make("p", { class: "hint" }, `“${value.error.message}”`));
      }
    }
    return make("tr", {}, make("th", { scope: "row" }, status), shown);
  });
  return make("table", {}, make("tbody", {}, ...rows));
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

/** What is asked for to fill a body: `fill(options)` sets the request's body and its type. */
class BodyForm {
  #content;
  #media = make("select");
  #example = make("select");
  #text = make("textarea", { class: "code", rows: "8", spellcheck: "false", "aria-label": "Fields of the request, as JSON" });
  #files = new Map();
  view;

  constructor(content) {
    this.#content = content;
    const media = Object.keys(content);
    this.#media.append(...media.map((each) => make("option", {}, each)));
    const { schema, examples } = content[media[0]];
    this.#example.append(...Object.keys(examples).map((each) => make("option", {}, each)));
    this.#example.addEventListener("change", () => this.#show());
    const inputs = Object.entries(schema.properties).filter(([, { format }]) => format === "binary").map(([name]) => {
      const input = make("input", { type: "file" });
      this.#files.set(name, input);
      return field(name, input, `Goes where the fields say ${FILE}.`);
    });
    const choices = [field("Sent as", this.#media), field("Example", this.#example)];
    this.view = make("div", { class: "try" }, ...choices, this.#text, ...inputs);
    this.#show();
  }

  #show() {
    this.#text.value = pretty(this.#content[this.#media.value].examples[this.#example.value].value);
  }

  async fill(options) {
    const fields = JSON.parse(this.#text.value);
    const form = this.#media.value === "multipart/form-data" ? new FormData() : null;
    for (const [name, value] of Object.entries(fields)) {
      const file = this.#files.get(name)?.files[0];
      if (value === FILE && file === undefined) {
        throw new Error(`Choose a file for ${name}, or leave that field out.`);
      }
      form?.append(name, value === FILE ? file : typeof value === "string" ? value : JSON.stringify(value));
      fields[name] = value === FILE && form === null ? await base64(file) : value;
    }
    options.body = form ?? JSON.stringify(fields);
    if (form === null) {
      options.headers["Content-Type"] = "application/json";
    }
  }
}

async function showAnswer(place, response) {
  const media = response.headers.get("content-type") ?? "";
  const shown = [make("p", {}, make("strong", {}, String(response.status)), ` ${media}`)];
  if (media.startsWith("application/json")) {
    shown.push(make("pre", { tabindex: "0" }, pretty(await response.json())));
  } else if (/^(image|video)\//.test(media)) {
    const source = URL.createObjectURL(await response.blob());
    const [name, attributes, file] = media.startsWith("image")
      ? ["img", { alt: "The answer" }, "answer.jpg"] : ["video", { controls: true }, "answer.mp4"];
    shown.push(make(name, { ...attributes, src: source }), make("a", { href: source, download: file }, "Save it"));
  } else {
    shown.push(make("pre", { tabindex: "0" }, await response.text()));
  }
  place.replaceChildren(...shown);
}

function tryForm(path, verb, about) {
  const names = (about.parameters ?? []).filter((each) => each.in === "path").map((each) => each.name);
  const inputs = new Map(names.map((name) => [name, make("input", { type: "text", required: true, spellcheck: "false" })]));
  const content = about.requestBody?.content;
  const body = content === undefined ? null : new BodyForm(content);
  const answer = make("div", { class: "answer", role: "status", "aria-live": "polite" });
  const send = make("button", { type: "submit", class: "primary" }, "Send");
  const form = make("form", { class: "try" }, make("h3", {}, "Try it"));
  inputs.forEach((input, name) => form.append(field(name, input, path.includes("avatars") ? "Such as demo." : "")));
  form.append(...(body === null ? [] : [body.view]), make("div", { class: "row" }, send), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = element("token").value;
    const options = { method: verb.toUpperCase(), headers: token === "" ? {} : { Authorization: `Bearer ${token}` } };
    const url = path.replace(/\{(\w+)\}/g, (_, name) => encodeURIComponent(inputs.get(name).value));
    send.disabled = true;
    answer.replaceChildren(make("p", {}, "Waiting for the answer…"));
    try {
      await body?.fill(options);
      await showAnswer(answer, await fetch(url, options));
    } catch (error) {
      answer.replaceChildren(make("p", {}, `It was not sent, or not answered: ${error.message}`));
    }
    send.disabled = false;
    send.focus();
  });
  return form;
}

function route(path, verb, about) {
  const words = about.description ?? about.summary ?? "";
  const open = about.security === undefined ? "Open to everybody." : "Wants the token, where the server has one.";
  const inside = make("div", { class: "inside" }, make("p", {}, words, make("span", { class: "hint" }, ` ${open}`)));
  const content = about.requestBody?.content;
  if (content !== undefined) {
    inside.append(make("h3", {}, "Fields"), fieldTable(Object.values(content)[0].schema));
  }
  inside.append(tryForm(path, verb, about), make("h3", {}, "Answers"), answerTable(about.responses));
  const summary = make(
    "summary", {}, make("span", { class: "verb", "data-verb": verb }, verb.toUpperCase()), make("code", { class: "path" }, path),
    make("span", { class: "hint" }, words.split(/[.;] /)[0].replace(/\.$/, "")),
  );
  return make("details", { class: "route card" }, summary, inside);
}

async function show() {
  const response = await fetch("/openapi.json");
  if (!response.ok) {
    throw new Error(`openapi.json was answered by ${response.status}`);
  }
  const { info, paths } = await response.json();
  element("about").textContent = `Version ${info.version}. ${info.description}`;
  const routesOf = ([path, verbs]) => Object.entries(verbs).map(([verb, about]) => route(path, verb, about));
  element("routes").replaceChildren(...Object.entries(paths).flatMap(routesOf));
}

element("token").value = new URLSearchParams(location.search).get("token") ?? "";
show().catch((error) => {
  element("about").textContent = `The interface cannot be shown: ${error.message}`;
});
