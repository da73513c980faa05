// The map: the world's outline, a background of the user's, the layers of a prediction, a box drawn, a pixel read.

import * as api from "./api.js";
import { $, element, percent, swatch } from "./dom.js";

const L = window.L;
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

const map = L.map("map", {
  worldCopyJump: true, minZoom: 1, maxZoom: 22, zoomSnap: 0.5,
  zoomAnimation: !still, fadeAnimation: !still, markerZoomAnimation: !still, inertia: !still,
}).setView([30, 10], 2);
map.attributionControl.setPrefix(false);
L.control.scale({ imperial: false }).addTo(map);
new ResizeObserver(() => map.invalidateSize({ animate: false })).observe($("map"));

// Below the tiles; Leaflet lays vectors above them.
map.createPane("world").style.zIndex = 100;
fetch("vendor/world.json").then((answer) => answer.json()).then((world) => {
  L.geoJSON(world, { pane: "world", interactive: false, style: (feature) => ({ className: feature.properties.kind }) }).addTo(map);
});

/** Tiles asked through `api`, so that they carry the key, and left when they are no longer wanted. */
const Tiles = L.GridLayer.extend({
  initialize(id, layer, options) {
    L.GridLayer.prototype.initialize.call(this, { updateWhenZooming: false, className: layer, ...options });
    this.on("tileunload", ({ tile }) => tile.left.abort());
    this.ask = (at, signal) => api.tile(id, layer, at, signal);
  },
  createTile(at, done) {
    const tile = element("canvas", { width: 256, height: 256, left: new AbortController() });
    this.ask(at, tile.left.signal).then((picture) => {
      tile.getContext("2d").drawImage(picture, 0, 0);
      picture.close();
      tile.dataset.drawn = "";
      done(null, tile);
    }).catch((error) => done(error, tile));
    return tile;
  },
});

let shown = null;  // { id, image, over, layer }
let background = null;

/** The user's own background by the address of its tiles, or none. */
export function setBackground(url) {
  background?.remove();
  // Open tile servers want to know who asks; what is in the address after the host's name is nobody's business.
  const options = { zIndex: 0, maxZoom: 22, className: "background", referrerPolicy: "origin" };
  background = url ? L.tileLayer(url, { ...options, attribution: url.split("/")[2].replace(/[^\w.:-]/g, "") }).addTo(map) : null;
}

const scene = ([west, south, east, north]) => L.latLngBounds([south, west], [north, east]);

/** Show a prediction's imagery; `failed` is told of the first tile that does not come. */
export function show(id, bounds, failed) {
  clear();
  const where = scene(bounds);
  let told = false;
  const options = { bounds: where, onError: ({ error }) => {
    if (told || error?.name === "AbortError") return;
    told = true;
    failed(error);
  } };
  map.fitBounds(where, { padding: [12, 12], animate: false });
  shown = { id, options, image: add("image", id, options, 1), over: null };
}

const coming = new Set();  // layers whose tiles are on their way

function add(layer, id, { bounds, onError }, zIndex) {
  const made = new Tiles(id, layer, { bounds, zIndex });
  const wait = (going) => {
    if (going) coming.add(made);
    else coming.delete(made);
    $("loading").hidden = coming.size === 0;
  };
  return made.on({ tileerror: onError, loading: () => wait(true), load: () => wait(false), remove: () => wait(false) }).addTo(map);
}

/** Lay `layer` over the imagery, or nothing. */
export function over(layer, opacity) {
  $("ramp").hidden = layer !== "confidence" || !shown;
  if (!shown) return;
  if (shown.layer !== layer) {
    shown.over?.remove();
    shown.over = layer ? add(layer, shown.id, shown.options, 2) : null;
    shown.layer = layer;
  }
  shown.over?.setOpacity(opacity);
}

export function clear() {
  shown?.image.remove();
  shown?.over?.remove();
  shown = null;
  $("ramp").hidden = true;
  map.closePopup();
  setBox(null);
}

// ---- a pixel

const popup = L.popup({ className: "pixel", maxWidth: 260, minWidth: 200, autoPanPadding: [16, 16] });
let onRead = () => {};

/** `then(text, error)` is told what was read, for those who do not see the map. */
export const whenRead = (then) => { onRead = then; };

async function read(where) {
  if (!shown || drawing) return;
  const { id } = shown;
  const at = where.wrap();
  try {
    const found = await api.pixel(id, at.lng, at.lat);
    if (shown?.id !== id) return;
    popup.setLatLng(where).setContent(bars(found)).openOn(map);
    const sure = found.probabilities.find((c) => c.name === found.name);
    onRead([found.name ?? "No data here", ...(sure ? [percent(sure.p)] : [])].join(", "));
  } catch (error) {
    popup.close();
    onRead(null, error);
  }
}

function bars({ name, probabilities }) {
  const rows = [...probabilities].sort((a, b) => b.p - a.p).map(({ name: other, p }) => {
    const bar = element("span", { className: "bar" });
    bar.append(element("i"));
    bar.firstChild.style.width = `${p * 100}%`;
    bar.firstChild.style.background = tint(other);
    return element("li", { className: other === name ? "chosen" : "" },
      swatch(tint(other)), element("span", { className: "name" }, other), element("span", { className: "number" }, percent(p)), bar);
  });
  return element("div", {}, element("h3", {}, name ?? "No data here"), element("ul", { className: "bars" }, ...rows));
}

let colors = new Map();
const tint = (name) => colors.get(name) ?? "gray";

/** Colours of the classes by name, for the bars. */
export const setColors = (classes) => { colors = new Map(classes.map((c) => [c.name, c.color])); };

map.on("click", (event) => read(event.latlng));
$("map").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target === $("map")) read(map.getCenter());
});

// ---- a box

let drawing = null;  // { done, from } while the user draws
let box = null;

/** The bounds in sight as [west, south, east, north]. */
export const view = () => corners(map.getBounds());

function corners(bounds) {
  const clip = (value, most) => Math.max(-most, Math.min(most, value));
  return [clip(bounds.getWest(), 180), clip(bounds.getSouth(), 90), clip(bounds.getEast(), 180), clip(bounds.getNorth(), 90)];
}

/** Outline a box on the map, or none; `go` also moves there. */
export function setBox(bbox, go = false) {
  box?.remove();
  box = bbox ? L.rectangle(scene(bbox), { className: "box", interactive: false }).addTo(map) : null;
  if (box && go) map.fitBounds(box.getBounds(), { padding: [24, 24], animate: false });
}

/** Let the user draw: `done(bbox)` at the end, `done(null)` where they stop. Again: stop. */
export function draw(done) {
  if (drawing) return stop(null);
  drawing = { done, from: null };
  map.dragging.disable();
  map.boxZoom.disable();
  $("ground").classList.add("drawing");
}

function stop(bbox) {
  const { done } = drawing;
  $("ground").classList.remove("drawing");
  map.dragging.enable();
  map.boxZoom.enable();
  // The click that ends the drawing reads no pixel.
  setTimeout(() => { drawing = null; });
  done(bbox);
}

const between = (from, event) => corners(L.latLngBounds(from, map.mouseEventToLatLng(event)));

// Pointer events, since Leaflet tells nothing of a finger that moves.
$("map").addEventListener("pointerdown", (event) => {
  if (!drawing || event.target.closest(".leaflet-control")) return;
  drawing.from = map.mouseEventToLatLng(event);
  $("map").setPointerCapture(event.pointerId);
});
$("map").addEventListener("pointermove", (event) => {
  if (drawing?.from) setBox(between(drawing.from, event));
});
$("map").addEventListener("pointerup", (event) => {
  if (!drawing?.from) return;
  const bbox = between(drawing.from, event);
  if (bbox[0] === bbox[2] || bbox[1] === bbox[3]) drawing.from = null;
  else stop(bbox);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drawing) { setBox(null); stop(null); }
});
