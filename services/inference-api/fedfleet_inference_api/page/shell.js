"use strict";

// What all pages share: asking the service, and the line that says which version it serves.

const LOOK_MS = 1000;

const $ = (id) => document.getElementById(id);

function show(element, text) {
  element.hidden = !text;
  element.textContent = text || "";
}

// An element with a class, a text and children.
function make(name, className = "", ...content) {
  const element = document.createElement(name);
  if (className) element.className = className;
  element.append(...content);
  return element;
}

async function send(url, options = {}) {
  try {
    const own = key.headers();
    const response = await fetch(url, { ...options, headers: { ...options.headers, ...own } });
    response.sent = own["x-api-key"];
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached. Is it running?");
  }
}

// The error of an answer that is none; asks for a key where that is what is wrong.
async function failure(response, keepsKey = false) {
  let error;
  try {
    ({ error } = await response.json());
  } catch {
    error = { message: `status ${response.status}`, code: "no JSON" };
  }
  const isRefused = response.status === 401 || (response.status === 403 && !keepsKey);
  // Of several requests with one key the first refusal is told; the others are of a key that is
  // gone, or was replaced since.
  if (isRefused && response.sent === key.headers()["x-api-key"]) {
    key.ask(response.sent ? `${error.message}.` : "This service answers those who have a key.");
  }
  return Object.assign(new Error(`${error.message} (${error.code})`), { status: response.status });
}

// options.keepsKey: a key that is not good for this one thing stays.
async function ask(url, options = {}) {
  const response = await send(url, options);
  if (!response.ok) throw await failure(response, options.keepsKey);
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch {
    throw new Error(`The service gave an answer that is not JSON (status ${response.status}).`);
  }
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

const model = {
  served: null, // the last answer to what is served
  digest: "",
  changed: () => {}, // called when another version is served
  looked: () => {}, // called after each look, with the answer

  show(answer) {
    const line = $("model");
    model.served = answer;
    line.classList.remove("lost");
    line.title = answer.detail;
    if (!answer.model) {
      line.classList.remove("serving");
      $("model-name").textContent = "waiting for the first version";
      for (const part of ["version", "round", "way", "candidate"]) show($(`model-${part}`), "");
      return;
    }
    const { name, version, round, digest, level, backend } = answer.model;
    const wasServing = model.digest !== "";
    const isNew = digest !== model.digest || !line.classList.contains("serving");
    model.digest = digest;
    line.classList.add("serving");
    $("model-name").textContent = name;
    show($("model-version"), `version ${version}`);
    show($("model-round"), `round ${round}`);
    show($("model-way"), level && level !== "a" ? `level ${level}, ${backend}` : backend);
    const candidate = answer.candidate;
    show($("model-candidate"), candidate
      ? `candidate ${candidate.model.version}: ${percent(candidate.canary_share)}` : "");
    if (!isNew) return;
    if (wasServing) {
      line.classList.add("swapped");
      setTimeout(() => line.classList.remove("swapped"), 1500);
    }
    model.changed(answer);
  },

  lose() {
    const line = $("model");
    line.classList.remove("serving");
    line.classList.toggle("lost", !key.asking);
    $("model-name").textContent = key.asking ? "a key is needed" : "service not reachable";
    for (const part of ["version", "round", "way", "candidate"]) show($(`model-${part}`), "");
  },

  async look() {
    if (document.hidden) return;
    if (key.asking) {
      model.lose();
      return;
    }
    try {
      const answer = await ask("served");
      model.show(answer);
      model.looked(answer);
    } catch {
      model.lose();
    }
  },

  async watch() {
    await model.look();
    setTimeout(model.watch, LOOK_MS);
  },
};

// Every page's own script is behind this one: it may say what it wants to hear of first.
document.addEventListener("DOMContentLoaded", () => model.watch());
