"use strict";

// Shows one image and what the served model makes of it; asks again when a new version is served.

const LARGEST_PREVIEW = 1200;
const TINY = 96;
const USUAL_SCORE = 0.4; // what the service takes where a request names none

let shown = null; // the file on the page
let bitmap = null; // its pixels, null where the browser cannot read them
let found = null; // what a detector found in it, null for a classifier
let seen = null; // the answer on the page, null while there is none
let askedFrom = USUAL_SCORE; // the least score of what a detector was asked for
let least = USUAL_SCORE; // the least score that is shown
let asked = 0; // number of the latest request: a late answer to an earlier one is dropped

function showError(text) {
  show($("error"), text);
  if (text) {
    $("bars").replaceChildren();
    show($("provenance"), "");
    $("empty").hidden = $("nothing").hidden = true;
    $("least").hidden = true;
    found = seen = null;
    draw();
  }
}

// The image is drawn, not linked: the page needs no URL for it and its policy allows none.
async function drawPreview(file) {
  let read;
  try {
    read = await createImageBitmap(file);
  } catch {
    read = null; // the service will say what is wrong with it
  }
  if (file !== shown) return;
  bitmap?.close();
  bitmap = read;
  const canvas = $("preview");
  $("drop").classList.toggle("filled", bitmap !== null);
  canvas.hidden = bitmap === null;
  $("invite").hidden = bitmap !== null;
  if (bitmap === null) return;
  canvas.setAttribute("aria-label", `the image ${file.name}`);
  draw();
}

function draw() {
  if (bitmap === null) return;
  const canvas = $("preview");
  const isTiny = Math.max(bitmap.width, bitmap.height) <= TINY;
  fit(canvas, bitmap.width, bitmap.height, found ? LEAST_SIDE : 0, LARGEST_PREVIEW);
  canvas.classList.toggle("tiny", isTiny);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = !isTiny;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  if (found) drawBoxes(canvas, found);
}

function barFor(label, share, color) {
  const fill = make("div", "fill");
  fill.style.width = `${100 * share}%`;
  const track = make("div", "track", fill);
  track.setAttribute("aria-hidden", "true");
  const name = make("span", "label");
  if (color) {
    const swatch = make("span", "swatch");
    swatch.style.background = fill.style.background = color;
    name.append(swatch);
  }
  name.append(label);
  return make("li", color ? "found" : "", name, make("span", "percent", percent(share)), track);
}

function showAnswer(answer) {
  showError("");
  seen = answer;
  found = answer.detections?.filter((one) => one.score >= least) ?? null;
  $("least").hidden = found === null;
  const rows = found
    ? found.map((one) => barFor(one.label, one.score, colorOf(one.index)))
    : answer.predictions.map((one) => barFor(one.label, one.probability));
  $("empty").hidden = true;
  $("nothing").hidden = rows.length > 0;
  $("bars").replaceChildren(...rows);
  const { name, version, round, digest, alias, level, backend } = answer.model;
  const way = [alias && `as ${alias}`, level !== "a" && `level ${level}`, backend && `by ${backend}`];
  show($("provenance"), `Answered by ${name} version ${version}, round ${round} ` +
    `(${digest.slice(0, 12)}), ${way.filter(Boolean).join(", ")}, ` +
    `in ${answer.latency_ms.total.toFixed(1)}\u00a0ms.`);
  draw();
}

async function predict() {
  const number = ++asked;
  const file = shown;
  $("bars").classList.add("busy");
  try {
    // The content decides what the file is, not the type that the browser guessed from its name.
    const headers = { "content-type": "application/octet-stream" };
    const isDetector = model.served?.model?.kind === "detection";
    askedFrom = isDetector && least < USUAL_SCORE ? Number($("least-score").min) : USUAL_SCORE;
    const query = askedFrom < USUAL_SCORE ? `?score=${askedFrom}` : "";
    const answer = await ask(`predict${query}`, { method: "POST", body: file, headers });
    if (number === asked) showAnswer(answer);
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
  found = seen = null;
  drawPreview(shown);
  predict();
}

model.changed = () => {
  if (shown) predict();
};
key.entered = async () => {
  showError("");
  $("empty").hidden = shown !== null;
  await model.look();
  if (shown && !key.asking) predict();
};

// What is less sure is asked for once, and shown or hidden here.
$("least-score").addEventListener("input", (event) => {
  least = Number(event.target.value);
  $("least-told").textContent = `${Math.round(100 * least)} %`;
  if (shown && least < askedFrom) predict();
  else if (seen) showAnswer(seen);
});
window.addEventListener("resize", draw);
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
