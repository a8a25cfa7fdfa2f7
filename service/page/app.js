// The page: reads the list of models, offers the views of the tasks that are loaded, and shows one of them.
// The address names the view (#tag), so that back, reload and links work.

import { get, onMissingKey } from "./api.js";
import { el } from "./dom.js";
import { keyForm, problemBox } from "./parts.js";

const VIEWS = ["tag", "classify", "fill", "translate", "caption", "generate", "forecast", "live", "inside", "load"];

const main = document.getElementById("main");
let leave = () => {};
let views = [];

function navigation(current) {
  document.getElementById("views").replaceChildren(...views.map((view) => el("li", null,
    el("a", { href: `#${view.name}`, "aria-current": view === current && "page" }, view.title))));
  document.querySelector("#views [aria-current]").scrollIntoView({ block: "nearest", inline: "center" });
}

function show() {
  const view = views.find((each) => each.name === location.hash.slice(1)) ?? views[0];
  leave();
  navigation(view);
  document.title = `${view.title} · seqserve`;
  const body = el("div", { class: "view" });
  main.replaceChildren(...main.querySelectorAll(":scope > .key"), el("h1", null, view.heading), body);
  leave = view.show(body) ?? (() => {});
}

async function start() {
  onMissingKey((wasWrong) => keyForm(main, wasWrong));
  try {
    const { data: models } = await get("v1/models");
    const modules = await Promise.all(VIEWS.map((name) => import(`./view-${name}.js`)));
    views = modules.flatMap((module) => module.view(models) ?? []); // a module has one view or several, or null
  } catch (problem) {
    main.replaceChildren(el("h1", null, "The models cannot be listed"), problemBox(problem));
    return;
  }
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the view
    main.focus();
  });
  window.addEventListener("hashchange", () => {
    show();
    main.focus();
  });
  show();
}

start();
