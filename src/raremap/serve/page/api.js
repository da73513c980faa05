// The server's doors. Every failure is an Error whose message is one line to show.

const KEY = "raremap.key";
let askKey = async () => null;

/** Say how the user is asked for the server's key; gives a promise of the text, or of null. */
export const whenKeyIsNeeded = (ask) => { askKey = ask; };

const headers = () => {
  const key = sessionStorage.getItem(KEY);
  return key ? { "X-API-Key": key } : {};
};

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** What the server says of a failure, or a line of our own where it says nothing. */
function reason(status, text, wait) {
  let line = null;
  try { line = JSON.parse(text).error; } catch { /* a proxy's page */ }
  line ??= status === 413 ? "this file is larger than the server takes" : `the server answered ${status}`;
  if (status === 429 && wait && !line.includes("again")) line += `; try again in ${wait} s`;
  return new ApiError(line, status);
}

let asking = null;

/** True where the user gave a key; many requests that fail together ask once. */
async function keyGiven() {
  asking ??= askKey().then((key) => {
    if (key) sessionStorage.setItem(KEY, key);
    return Boolean(key);
  }).finally(() => { asking = null; });
  return asking;
}

/** Ask, and ask again where the server says that it is only busy. */
async function ask(path, options = {}, again = 3) {
  const sent = headers();
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, ...sent } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server does not answer; is it still running?", 0);
  }
  const wait = Number(answer.headers.get("Retry-After"));
  if (answer.status === 429 && !options.method && again && wait <= 10) {
    await new Promise((resolve) => { setTimeout(resolve, 1000 * Math.max(1, wait)); });
    return ask(path, options, again - 1);
  }
  if (answer.status === 401) {
    const another = headers()["X-API-Key"] !== sent["X-API-Key"];
    if (another || await keyGiven()) return ask(path, options, again);
  }
  if (!answer.ok) throw reason(answer.status, await answer.text(), answer.headers.get("Retry-After"));
  return answer;
}

const json = async (path, options) => (await ask(path, options)).json();
const at = (id) => `api/predictions/${encodeURIComponent(id)}`;

export const models = () => json("api/models");
export const prediction = (id) => json(at(id));
export const remove = (id) => ask(at(id), { method: "DELETE" });
export const pixel = (id, lon, lat) => json(`${at(id)}/pixel?lon=${lon.toFixed(7)}&lat=${lat.toFixed(7)}`);
export const tile = async (id, layer, { z, x, y }, signal) =>
  createImageBitmap(await (await ask(`${at(id)}/tiles/${layer}/${z}/${x}/${y}.png`, { signal })).blob());

export const predictPlace = (model, bbox, date) => json("api/predictions", {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify({ model, bbox, date }),
});

/** Send a scene; `progress` is called with the share that has left. XMLHttpRequest, since fetch does not tell. */
export function predictFile(model, file, progress, signal) {
  const form = new FormData();
  form.append("model", model);
  form.append("file", file);
  const send = () => new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", "api/predictions");
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.onload = () => {
      if (request.status === 202) resolve(JSON.parse(request.responseText));
      else reject(reason(request.status, request.responseText, request.getResponseHeader("Retry-After")));
    };
    request.onerror = () => reject(new ApiError("the upload broke off; is the server still running?", 0));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
  return send().catch(async (error) => {
    if (error.status === 401 && await keyGiven()) return send();
    throw error;
  });
}

/** Save a file of the server. A link can carry no key, so with one the file passes through the page. */
export async function download(path, name) {
  if (Object.keys(headers()).length === 0) return save(path, name);
  return saveBlob(await (await ask(path)).blob(), name);
}

export function saveBlob(blob, name) {
  const url = URL.createObjectURL(blob);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function save(href, name) {
  const link = document.createElement("a");
  link.href = href;
  link.download = name;
  link.click();
}
