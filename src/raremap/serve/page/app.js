// The page: from a model and a scene to a map in the browser. The address after # names the map, so a reload finds it again.

import * as api from "./api.js";
import { card } from "./card.js";
import { $, area, element, named, percent, when } from "./dom.js";
import * as ground from "./ground.js";
import { forget, known, recent, remember } from "./recent.js";

let models = [];
let opened = null;  // the id of the map in view
let leave = new AbortController();  // aborted when the view changes: uploads and polling of the old view end

// ---- words to the user

function complain(error) {
  if (error?.name === "AbortError") return;
  $("error").textContent = typeof error === "string" ? error : error.message;
  $("error").hidden = false;
  $("error").scrollIntoView({ block: "nearest" });
}

const quiet = () => { $("error").hidden = true; };
const say = (line) => { $("said").textContent = line; };

// ---- models

const model = (id = $("model").value) => models.find((m) => m.id === id);

function showModel() {
  const chosen = model();
  if (!chosen) return;
  const size = chosen.resolution_m ? `${+chosen.resolution_m.toPrecision(3)} m a pixel, ` : "";
  $("model-facts").textContent = `${size}bands ${chosen.bands.join(", ")}`;
  const chips = (classes) => classes.map(({ name, color }) => element("li", {}, named({ name, color })));
  $("model-rare").replaceChildren(...chips(chosen.classes.filter((c) => c.rare)));
  $("model-common").replaceChildren(...chips(chosen.classes.filter((c) => !c.rare)));
  $("card").replaceChildren(...card(chosen.card_markdown));
  // A place and a date are offered where the server can fetch what the model reads.
  $("place").hidden = Boolean(chosen.no_place);
  $("no-place").textContent = chosen.no_place ?? "";
}

async function loadModels() {
  // Models of tables, and those joined with them, have addresses of their own and no place on a map of pixels.
  models = (await api.models()).filter((m) => (m.kind ?? "image") === "image");
  if (models.length === 0) throw new Error("this server has no model of imagery; start it with raremap serve BUNDLE");
  $("model").replaceChildren(...models.map((m) => element("option", { value: m.id }, m.name)));
  showModel();
}

// ---- a new map

const GEOTIFF = new Set(["73,73,42,0", "77,77,0,42", "73,73,43,0", "77,77,0,43"]);

async function sendFile(file) {
  quiet();
  if (!model()) return complain("no model is chosen");
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (!GEOTIFF.has([...start].join())) return complain(`${file.name} is not a GeoTIFF; choose a .tif file with the bands of the model`);
  const { signal } = enterJob(file.name);
  try {
    const share = (sent) => going(sent < 1 ? `Uploading, ${percent(sent)}` : "Uploaded, being checked", sent);
    share(0);
    say("Uploading");
    accepted(await api.predictFile(model().id, file, share, signal), file.name);
  } catch (error) {
    if (!signal.aborted) backToStart();
    complain(error);
  }
}

async function sendPlace(event) {
  event.preventDefault();
  quiet();
  const form = $("place");
  const wrong = [...form.elements].find((field) => !field.checkValidity());
  if (wrong) {
    wrong.focus();
    return complain(`${wrong.name}: ${wrong.validationMessage}`);
  }
  const bbox = boxOfForm();
  if (bbox[0] >= bbox[2] || bbox[1] >= bbox[3]) return complain("the box is empty: west must be below east, and south below north");
  const button = form.querySelector("[type=submit]");
  button.disabled = true;
  try {
    accepted(await api.predictPlace(model().id, bbox, form.date.value), `${form.date.value}, ${middle(bbox)}`);
  } catch (error) {
    complain(error);
  } finally {
    button.disabled = false;
  }
}

const middle = ([w, s, e, n]) => `${((s + n) / 2).toFixed(3)}, ${((w + e) / 2).toFixed(3)}`;
const SIDES = ["west", "south", "east", "north"];
const boxOfForm = () => SIDES.map((side) => $("place")[side].valueAsNumber);

function boxToForm(bbox) {
  SIDES.forEach((side, i) => { $("place")[side].value = bbox[i].toFixed(5); });
  ground.setBox(bbox);
}

function accepted({ id }, what) {
  remember({ id, what, model: model().name, at: new Date().toISOString() });
  location.hash = id;
}

// ---- a map

/** Show the job's panel, empty; gives the signal that ends when the user goes elsewhere. */
function enterJob(what, id = null) {
  opened = id;
  leave.abort();
  leave = new AbortController();
  ground.clear();
  document.body.dataset.view = "job";
  $("start").hidden = true;
  $("job").hidden = false;
  for (const part of ["result", "going", "remove"]) $(part).hidden = true;
  $("job-title").textContent = what;
  $("job-facts").textContent = "";
  $("panel").scrollTop = 0;
  $("job-title").focus({ preventScroll: true });
  return leave;
}

function going(text, share) {
  $("going").hidden = false;
  $("going-text").textContent = text;
  if (share === null) $("progress").removeAttribute("value");
  else $("progress").value = share;
}

const wait = (ms, signal) => new Promise((resolve) => {
  const clock = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(clock); resolve(); });
});

async function openJob(id) {
  const { signal } = enterJob(known(id)?.what ?? "Map", id);
  let pause = 300;
  let last = null;
  while (!signal.aborted) {
    let job = null;
    try {
      job = await api.prediction(id);
    } catch (error) {
      if (signal.aborted) return;
      complain(error);
      if (error.status === 404 || error.status === 410) forget(id);
      // A server that starts again, or is busy, goes on with its jobs.
      if (error.status !== 0 && error.status !== 429 && error.status < 500) { $("going").hidden = true; return; }
    }
    if (signal.aborted) return;
    if (job) {
      if (last === null) quiet();
      if (job.status !== last) say({ queued: "Waiting in the queue", running: "The map is being made", done: "The map is done", failed: "The map failed" }[job.status]);
      last = job.status;
      if (job.status === "queued") going(job.ahead ? `Waiting in the queue, ${job.ahead} ahead` : "Waiting in the queue", null);
      if (job.status === "running") going(`Mapping, ${percent(job.progress)}`, job.progress);
      if (job.status === "done") return showResult(job);
      if (job.status === "failed") return showFailure(job);
    } else {
      last = null;
    }
    await wait(pause, signal);
    pause = Math.min(2000, pause * 1.3);
  }
}

/** Of which day the imagery is, how much of it is seen, and where it is from. */
function sceneFacts(scene) {
  if (!scene) return [];
  const seen = scene.covered === null ? [] : [`${percent(scene.covered)} covered`, `${percent(scene.cloud)} clouded`];
  return [scene.date && `image of ${scene.date}`, ...seen, scene.source];
}

function facts(job) {
  const name = model(job.model)?.name ?? job.model;
  $("job-facts").textContent = [name, job.created && when(job.created), ...sceneFacts(job.scene)].filter(Boolean).join(" · ");
  for (const note of job.notes ?? []) $("job-facts").append(element("strong", { className: "note" }, ` Note: ${note}.`));
  $("remove").hidden = false;
  $("going").hidden = true;
}

function showFailure(job) {
  facts(job);
  complain(job.error ?? "the map could not be made");
}

function showResult(job) {
  facts(job);
  ground.setClasses(job.areas);
  ground.show(job.id, job.bounds, complain);
  lay();
  $("areas").tBodies[0].replaceChildren(...job.areas.map(areaRow));
  $("files").replaceChildren(...[...Object.entries(job.files).map(([kind, path]) => fileButton(kind, path)), csvButton(job)]
    .map((button) => element("li", {}, button)));
  $("expires").textContent = job.expires ? `Kept on the server until ${when(job.expires)}.` : "";
  $("result").hidden = false;
}

function areaRow(c) {
  const bar = element("i");
  bar.style.width = `${c.share * 100}%`;
  bar.style.background = c.color;
  return element("tr", {},
    element("th", { scope: "row" }, named(c), element("span", { className: "bar" }, bar)),
    element("td", {}, area(c.area_m2)), element("td", {}, percent(c.share)));
}

const KINDS = { map: "Map", confidence: "Confidence", polygons: "Polygons", preview: "Picture", probabilities: "Probabilities" };

function button(label, act, ending = "") {
  const made = element("button", { type: "button", className: "quiet" }, label, element("small", {}, ending));
  made.addEventListener("click", () => { quiet(); Promise.resolve(act()).catch(complain); });
  return made;
}

// As the server names them, so that the files of one map lie together.
const called = (last) => `${opened.slice(0, 8)}-${last}`;

function fileButton(kind, path) {
  const last = path.split("/").pop();
  return button(KINDS[kind] ?? kind, () => api.download(path, called(last)), last.slice(last.lastIndexOf(".")));
}

function csvButton(job) {
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const rows = job.areas.map((c) => [c.value, quoted(c.name), c.rare, c.area_m2, c.share].join(","));
  const text = ["value,name,rare,area_m2,share", ...rows, ""].join("\n");
  return button("Areas", () => api.saveBlob(new Blob([text], { type: "text/csv" }), called("areas.csv")), ".csv");
}

function lay() {
  const opacity = $("opacity").valueAsNumber / 100;
  document.querySelector("output[for=opacity]").textContent = `${Math.round(opacity * 100)} %`;
  const layer = document.querySelector("[name=over]:checked").value;
  $("opacity").disabled = !layer;
  ground.over(layer, opacity);
}

async function removeJob() {
  const id = opened;
  try {
    await api.remove(id);
    forget(id);
    backToStart();
    say("Deleted");
  } catch (error) {
    complain(error);
  }
}

// ---- from view to view

function backToStart() {
  if (location.hash) location.hash = "";
  else showStart();
}

function showStart() {
  leave.abort();
  leave = new AbortController();
  opened = null;
  ground.clear();
  document.body.dataset.view = "start";
  $("start").hidden = false;
  $("job").hidden = true;
  showRecent();
}

function showRecent() {
  const list = recent();
  $("recent").hidden = list.length === 0;
  $("recent").querySelector("ul").replaceChildren(...list.map((entry) => {
    const drop = button("×", () => { forget(entry.id); showRecent(); });
    drop.setAttribute("aria-label", `Forget ${entry.what}`);
    return element("li", {}, element("a", { href: `#${entry.id}` }, entry.what),
      element("span", { className: "soft" }, `${entry.model} · ${when(entry.at)}`), drop);
  }));
}

const ID = /^[0-9a-f]{24}$/;

function route() {
  quiet();
  const id = location.hash.slice(1);
  if (ID.test(id)) return openJob(id);
  const moved = document.body.dataset.view === "job";
  showStart();
  if (moved) $("model").focus();
  if (!id) return;
  history.replaceState(null, "", location.pathname + location.search);
  complain(`there is no such map: ${id.length > 40 ? `${id.slice(0, 40)}…` : id}; copy its whole address, or make it anew`);
}

function askKey() {
  const dialog = $("key");
  $("key-text").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? $("key-text").value : null), { once: true });
  });
}

function useBackground(url) {
  const whole = /^https:\/\/|^http:\/\/(localhost|127\.0\.0\.1)[:/]/.test(url) && ["{z}", "{x}", "{y}"].every((part) => url.includes(part));
  if (url && !whole) throw new Error("the address of a background map starts with https:// and holds {z}, {x} and {y}");
  ground.setBackground(url);
  try { localStorage.setItem("raremap.background", url); } catch { /* it holds as long as the page */ }
}

// ---- doors

api.whenKeyIsNeeded(askKey);
$("key-cancel").addEventListener("click", () => $("key").close(""));
$("model").addEventListener("change", showModel);
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  // A second choice of the same file is a change again.
  if (file) sendFile(file).finally(() => { $("file").value = ""; });
});
$("place").addEventListener("submit", sendPlace);
$("place").addEventListener("input", () => {
  const bbox = boxOfForm();
  if (bbox.every(Number.isFinite) && bbox[0] < bbox[2] && bbox[1] < bbox[3]) ground.setBox(bbox, true);
});
$("place").date.max = new Date().toISOString().slice(0, 10);
$("draw").addEventListener("click", () => {
  $("draw").setAttribute("aria-pressed", "true");
  say("Drag over the map; Escape stops");
  ground.draw((bbox) => {
    $("draw").setAttribute("aria-pressed", "false");
    if (bbox) boxToForm(bbox);
  });
});
$("view").addEventListener("click", () => boxToForm(ground.view()));
$("new").addEventListener("click", backToStart);
$("cancel").addEventListener("click", () => (opened ? removeJob() : backToStart()));
$("remove").addEventListener("click", () => confirm("Delete this map and its files from the server?") && removeJob());
$("opacity").addEventListener("input", lay);
for (const choice of document.querySelectorAll("[name=over]")) choice.addEventListener("change", lay);
$("basemap").addEventListener("submit", (event) => {
  event.preventDefault();
  quiet();
  try { useBackground($("basemap-url").value.trim()); } catch (error) { complain(error); }
});
ground.whenRead((line, error) => (error ? complain(error) : say(line)));
addEventListener("hashchange", route);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();  // what stands after # names a map
  $("panel").focus();
});

let over = 0;  // dragenter and dragleave also come from every element inside
const hasFile = (event) => event.dataTransfer?.types.includes("Files");
const dropping = (count) => { over = count; $("dropping").hidden = count === 0; };
addEventListener("dragenter", (event) => hasFile(event) && dropping(over + 1));
addEventListener("dragleave", (event) => hasFile(event) && dropping(Math.max(0, over - 1)));
addEventListener("dragover", (event) => hasFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!hasFile(event)) return;
  event.preventDefault();
  dropping(0);
  if (event.dataTransfer.files.length > 1) return complain("drop one scene at a time");
  sendFile(event.dataTransfer.files[0]);
});

try {
  const url = localStorage.getItem("raremap.background");
  if (url) { $("basemap-url").value = url; useBackground(url); }
} catch { /* no storage, no background */ }
loadModels().catch(complain).finally(route);
