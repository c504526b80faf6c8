"use strict";

// Shows one image and what the served model makes of it; asks again when a new version is served.

const LOOK_MS = 1000;
const LARGEST_PREVIEW = 1200;
const TINY = 96;

const $ = (id) => document.getElementById(id);

let shown = null; // the file on the page
let asked = 0; // number of the latest request: a late answer to an earlier one is dropped
let served = ""; // digest of the version on the model line

function show(element, text) {
  element.hidden = !text;
  element.textContent = text || "";
}

function showError(text) {
  show($("error"), text);
  if (text) {
    $("bars").replaceChildren();
    show($("provenance"), "");
    $("empty").hidden = true;
  }
}

async function ask(url, options = {}) {
  let response;
  try {
    response = await fetch(url, { ...options, headers: { ...options.headers, ...key.headers() } });
  } catch {
    throw new Error("The service cannot be reached. Is it running?");
  }
  let body;
  try {
    body = await response.json();
  } catch {
    throw new Error(`The service gave an answer that is not JSON (status ${response.status}).`);
  }
  if (response.status === 401 || response.status === 403) {
    const wasSent = "x-api-key" in key.headers();
    key.ask(wasSent ? `${body.error.message}.` : "This service answers those who have a key.");
  }
  if (body.error) throw new Error(`${body.error.message} (${body.error.code})`);
  return body;
}

// The image is drawn, not linked: the page needs no URL for it and its policy allows none.
async function drawPreview(file) {
  const canvas = $("preview");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    bitmap = null; // the service will say what is wrong with it
  }
  if (file !== shown) return;
  $("drop").classList.toggle("filled", bitmap !== null);
  canvas.hidden = bitmap === null;
  $("invite").hidden = bitmap !== null;
  if (bitmap === null) return;
  const scale = Math.min(1, LARGEST_PREVIEW / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.classList.toggle("tiny", Math.max(bitmap.width, bitmap.height) <= TINY);
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", `the image ${file.name}`);
  bitmap.close();
}

function barFor(prediction) {
  const percent = `${(100 * prediction.probability).toFixed(1)} %`;
  const row = document.createElement("li");
  for (const [name, text] of [["label", prediction.label], ["percent", percent]]) {
    const cell = document.createElement("span");
    cell.className = name;
    cell.textContent = text;
    row.append(cell);
  }
  const track = document.createElement("div");
  const fill = document.createElement("div");
  track.className = "track";
  track.setAttribute("aria-hidden", "true");
  fill.className = "fill";
  fill.style.width = `${100 * prediction.probability}%`;
  track.append(fill);
  row.append(track);
  return row;
}

async function predict() {
  const number = ++asked;
  const file = shown;
  $("bars").classList.add("busy");
  try {
    // The content decides what the file is, not the type that the browser guessed from its name.
    const headers = { "content-type": "application/octet-stream" };
    const answer = await ask("predict", { method: "POST", body: file, headers });
    if (number !== asked) return;
    showError("");
    $("empty").hidden = true;
    $("bars").replaceChildren(...answer.predictions.map(barFor));
    const { name, version, round, digest } = answer.model;
    show($("provenance"), `Answered by ${name} version ${version}, round ${round} ` +
      `(${digest.slice(0, 12)}) in ${answer.latency_ms.total.toFixed(1)}\u00a0ms.`);
  } catch (error) {
    if (number === asked) showError(error.message);
  } finally {
    if (number === asked) $("bars").classList.remove("busy");
  }
}

function take(files) {
  if (!files || files.length === 0) {
    showError("That was not a file. Drop an image file, or choose one.");
    return;
  }
  shown = files[0];
  drawPreview(shown);
  predict();
}

function showModel(answer) {
  const line = $("model");
  line.classList.remove("lost");
  line.title = answer.detail;
  if (!answer.model) {
    line.classList.remove("serving");
    $("model-name").textContent = "waiting for the first version";
    return;
  }
  const { name, version, round, digest } = answer.model;
  if (digest === served && line.classList.contains("serving")) return;
  const wasServing = served !== "";
  served = digest;
  line.classList.add("serving");
  $("model-name").textContent = name;
  show($("model-version"), `version ${version}`);
  show($("model-round"), `round ${round}`);
  if (wasServing) {
    line.classList.add("swapped");
    setTimeout(() => line.classList.remove("swapped"), 1500);
  }
  if (shown) predict();
}

function showLost() {
  const line = $("model");
  line.classList.remove("serving");
  line.classList.toggle("lost", !key.asking);
  $("model-name").textContent = key.asking ? "a key is needed" : "service not reachable";
  show($("model-version"), "");
  show($("model-round"), "");
}

async function lookAtModel() {
  if (document.hidden) return;
  if (key.asking) {
    showLost();
    return;
  }
  try {
    showModel(await ask("served"));
  } catch {
    showLost();
  }
}

async function watchModel() {
  await lookAtModel();
  setTimeout(watchModel, LOOK_MS);
}

key.entered = async () => {
  showError("");
  $("empty").hidden = shown !== null;
  await lookAtModel();
  if (shown && !key.asking) predict();
};

$("file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files);
  event.target.value = ""; // so that choosing the same file again counts
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault(); // a browser would leave the page and open the file
  $("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
watchModel();
