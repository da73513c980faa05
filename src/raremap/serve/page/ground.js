// The map: the world's outline, a background of the user's, the layers of a prediction, a box drawn, a pixel read.

import * as api from "./api.js";
import { $, element, named, percent } from "./dom.js";

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
  initialize(id, layer, { where, ...options }) {
    L.GridLayer.prototype.initialize.call(this, { updateWhenZooming: false, className: layer, ...options });
    // Leaflet brings a tile back to within 180°, from where a scene may go on.
    this.where = [where, L.latLngBounds([where.getSouth(), where.getWest() - 360], [where.getNorth(), where.getEast() - 360])];
    this.on("tileunload", ({ tile }) => tile.left.abort());
    this.ask = (at, signal) => api.tile(id, layer, at, signal);
  },
  _isValidTile(at) {
    const here = this._tileCoordsToBounds(at);
    return L.GridLayer.prototype._isValidTile.call(this, at) && this.where.some((bounds) => bounds.overlaps(here));
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

// Across the 180th meridian the east is below the west.
const scene = ([west, south, east, north]) => L.latLngBounds([south, west], [north, east < west ? east + 360 : east]);

/** Show a prediction's imagery; `failed` is told of the first tile that does not come. */
export function show(id, bounds, failed) {
  clear();
  const where = scene(bounds);
  let told = false;
  const options = { where, onError: ({ error }) => {
    if (told || error?.name === "AbortError") return;
    told = true;
    failed(error);
  } };
  map.fitBounds(where, { padding: [12, 12], animate: false });
  shown = { id, options, image: add("image", id, options, 1), over: null };
}

const coming = new Set();  // layers whose tiles are on their way

function add(layer, id, { where, onError }, zIndex) {
  const made = new Tiles(id, layer, { where, zIndex });
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

const popup = L.popup({ className: "pixel", maxWidth: 300, minWidth: 220, autoPanPadding: [16, 16] });
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
    const groups = ranked(found);
    popup.setLatLng(where).setContent(bars(found, groups)).openOn(map);
    const lists = popup.getElement().querySelector(".lists");
    lists.tabIndex = lists.scrollHeight > lists.clientHeight ? 0 : -1;  // only what scrolls is a stop for keys
    onRead(words(found, groups));
  } catch (error) {
    popup.close();
    onRead(null, error);
  }
}

const FIRST = 3;

/** The most probable classes; further ones that are rare, or are on the map; the rest. */
function ranked({ name, probabilities }) {
  const all = [...probabilities].sort((a, b) => b.p - a.p).map((c, i) => (
    { color: "gray", ...classes.get(c.name), ...c, place: i + 1, chosen: c.name === name }));
  const [first, more] = [all.slice(0, FIRST), all.slice(FIRST)];
  const wanted = (c) => c.rare || c.chosen;
  return [first, more.filter(wanted), more.filter((c) => !wanted(c))];
}

function words({ name, probabilities: { length } }, [first, wanted]) {
  if (!length) return name ?? "No data here";
  const one = (c, ...more) => [c.name, ...(c.rare ? ["rare"] : []), percent(c.p), ...more].join(", ");
  const rows = [...first.map((c) => one(c)), ...wanted.map((c) => one(c, `place ${c.place} of ${length}`))];
  return `Mapped as ${name}: ${rows.join("; ")}`;
}

function bars({ name }, groups) {
  const row = (c) => {
    const bar = element("span", { className: "bar" }, element("i"));
    bar.firstChild.style.width = `${c.p * 100}%`;
    bar.firstChild.style.background = c.color;
    return element("li", { className: c.chosen ? "chosen" : "" }, named(c), element("span", { className: "number" }, percent(c.p)), bar);
  };
  const lists = groups.filter((group) => group.length).map((group) => element("ul", { className: "bars" }, ...group.map(row)));
  return element("div", {}, element("h3", {}, name ?? "No data here"),
    element("div", { className: "lists", role: "group", ariaLabel: "Probabilities" }, ...lists));
}

let classes = new Map();

/** Colours and rarity of the classes by name, for the bars. */
export const setClasses = (list) => { classes = new Map(list.map(({ name, color, rare }) => [name, { color, rare }])); };

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
  if (event.key !== "Escape" || event.target.closest?.("dialog")) return;
  if (drawing) { setBox(null); stop(null); }
  else if (popup.isOpen()) {
    const inside = popup.getElement().contains(document.activeElement);
    popup.close();
    if (inside) $("map").focus();
  }
});
