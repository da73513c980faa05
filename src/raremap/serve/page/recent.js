// The maps made in this browser, newest first; the server keeps the maps, the browser only their names.

const KEY = "raremap.recent";
const MOST = 12;

export function recent() {
  try { return JSON.parse(localStorage.getItem(KEY)) ?? []; } catch { return []; }
}

function write(list) {
  try { localStorage.setItem(KEY, JSON.stringify(list.slice(0, MOST))); } catch { /* private windows: nothing is remembered */ }
}

/** Put a map first: `{ id, what, model, at }`. */
export const remember = (entry) => write([entry, ...recent().filter(({ id }) => id !== entry.id)]);
export const forget = (gone) => write(recent().filter(({ id }) => id !== gone));
export const known = (wanted) => recent().find(({ id }) => id === wanted);
