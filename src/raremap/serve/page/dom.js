// Elements by id, elements made, and how numbers are written.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; text stays text. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function swatch(color) {
  const made = element("i", { className: "swatch" });
  made.style.background = color;
  return made;
}

/** A class's name beside its colour; long, it breaks without leaving it. */
export function named({ name, color, rare }) {
  const mark = rare ? [" ", element("span", { className: "rare" }, "rare")] : [];
  return element("span", { className: "class" }, swatch(color), element("span", { className: "name" }, name, ...mark));
}

const digits = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });

/** An area in the unit that reads best. */
export function area(m2) {
  if (m2 >= 1e6) return `${digits.format(m2 / 1e6)} km²`;
  return m2 >= 1e4 ? `${digits.format(m2 / 1e4)} ha` : `${digits.format(m2)} m²`;
}

/** A share in percent; what is there but small is never written as 0. */
export function percent(share) {
  const p = share * 100;
  if (p > 0 && p < 0.01) return "< 0.01 %";
  return `${p.toFixed(p === 0 || p >= 10 ? 0 : p >= 1 ? 1 : 2)} %`;
}

export const when = (time) => new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }).format(new Date(time));
