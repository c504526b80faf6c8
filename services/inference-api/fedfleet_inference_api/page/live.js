"use strict";

// The cameras' pictures, how they are, and what is told, as it happens.

// A browser holds six connections to a host: events take one, and there must be one to ask with.
const MOST_LIVE = 3;
const STILL_MS = 2000; // between two pictures of a camera that is not among them
const LIST_MS = 5000;
const RETRY_MS = 2000;
const MOST_EVENTS = 100;
// Texts in a picture are as large as its width allows: in a tile narrower than this those of a
// large picture cannot be read.
const NARROW = 400;
const SMALL_WIDTH = 640;

const CODES = {
  auth_failed: "It refuses the user or the password.",
  not_found: "It has no stream at this address.",
  timeout: "It does not answer in time.",
  connection_refused: "Nothing listens at its address and port.",
  unreachable: "Its address cannot be reached.",
  not_allowed: "Its address is not among those where cameras may be.",
  tls_failed: "Its certificate could not be checked.",
  codec_unsupported: "Its video format cannot be read; H.264 and H.265 can.",
  no_video: "There is no video at its address.",
  redirect_refused: "It sends us to an address that is not allowed.",
  ended: "The recording has ended.",
  stalled: "No picture came for a while.",
  process_died: "What read it stopped unexpectedly.",
  failed: "It failed; the service's log says more.",
};
const STATES = {
  connecting: "connecting",
  streaming: "live",
  stalled: "stalled",
  backoff: "waiting to try again",
  stopped: "stopped",
};

// In UTC, as in the pictures, so that an event is found in them.
const timeOf = (seconds) => new Date(1000 * seconds).toISOString().slice(11, 19);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const versionOf = (seen) => seen && seen.version ? `version ${seen.version}` : "";

class Tile {
  constructor(name) {
    this.name = name;
    this.path = `cameras/${encodeURIComponent(name)}`;
    this.isSeen = false; // on the screen
    this.stopping = null; // ends its stream
    this.query = ""; // of its stream
    this.stillAt = 0;
    this.isFailing = false; // its last stream did not begin, or broke off
    this.canvas = make("canvas", "picture");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `camera ${name}: no picture yet`);
    this.larger = make("button", "zoom", this.canvas);
    this.larger.type = "button";
    this.larger.setAttribute("aria-pressed", "false");
    this.larger.title = "larger or smaller";
    this.larger.addEventListener("click", () => this.toggle());
    this.state = make("span", "state");
    this.facts = make("p", "hint");
    this.why = make("p", "why");
    this.gone = make("button", "link", "remove");
    this.gone.type = "button";
    this.gone.addEventListener("click", () => this.remove());
    this.back = make("p", "hint", "The service's own file names it: it is back after a restart.");
    this.back.hidden = true;
    this.isConfigured = false;
    const title = make("div", "title", make("h3", "", name), this.state);
    const low = make("div", "title low", this.facts, this.gone);
    this.element = make("li", "card tile", title, this.larger, this.why, low, this.back);
    this.element.dataset.name = name;
  }

  toggle() {
    const isLarge = this.element.classList.toggle("large");
    this.larger.setAttribute("aria-pressed", String(isLarge));
  }

  async remove() {
    if (!this.gone.classList.contains("sure")) {
      this.gone.classList.add("sure");
      this.gone.textContent = "really remove?";
      this.back.hidden = !this.isConfigured;
      setTimeout(() => {
        this.back.hidden = true;
        this.gone.classList.remove("sure");
        this.gone.textContent = "remove";
      }, 4000);
      return;
    }
    try {
      await ask(this.path, { method: "DELETE", keepsKey: true });
      list();
    } catch (error) {
      show($("cameras-error"), error.message);
    }
  }

  update(camera) {
    const { state, code, width, height, fps, retry_at_s: retryAt } = camera.status;
    this.isConfigured = camera.configured;
    this.element.dataset.state = state;
    this.state.textContent = STATES[state] ?? state;
    const next = retryAt ? ` Next try at ${timeOf(retryAt)} UTC.` : "";
    show(this.why, state === "streaming" ? "" : (CODES[code] ?? code) + next);
    const facts = [camera.address];
    if (width) facts.push(`${width}\u00d7${height}`, `${fps.toFixed(fps < 10 ? 1 : 0)} frames/s`);
    if (camera.model) facts.push(versionOf(camera.model));
    if (!camera.kept) facts.push("until the service stops");
    this.facts.textContent = facts.join(" \u00b7 ");
  }

  async draw(blob) {
    const bitmap = await createImageBitmap(blob);
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width;
      this.canvas.height = bitmap.height;
    }
    this.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    this.element.classList.add("drawn");
    this.element.dataset.pictures = Number(this.element.dataset.pictures ?? 0) + 1;
    this.canvas.setAttribute("aria-label", `camera ${this.name}`);
  }

  // For the size that the tile has now.
  wanted() {
    return this.canvas.clientWidth < NARROW ? `?width=${SMALL_WIDTH}` : "";
  }

  async live() {
    const stopping = this.stopping = new AbortController();
    this.query = this.wanted();
    try {
      const path = `${this.path}/stream.mjpg${this.query}`;
      const response = await send(path, { signal: stopping.signal });
      if (!response.ok) throw await failure(response);
      for await (const picture of pictures(response)) {
        this.isFailing = false;
        await this.draw(picture);
      }
    } catch {
      // single pictures until it is tried again
    }
    this.isFailing = !stopping.signal.aborted;
    await wait(stopping.signal.aborted ? 0 : RETRY_MS);
    if (this.stopping === stopping) this.stopping = null;
  }

  end() {
    this.stopping?.abort();
    this.stopping = null;
  }

  async still() {
    if (Date.now() < this.stillAt) return;
    this.stillAt = Date.now() + STILL_MS;
    try {
      const response = await send(`${this.path}/snapshot.jpg?width=${SMALL_WIDTH}`);
      if (response.ok) await this.draw(await response.blob());
    } catch {
      // its state says why
    }
  }
}

const tiles = new Map();
const onScreen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const tile = tiles.get(target.dataset.name);
    if (tile) tile.isSeen = isIntersecting;
  }
  watch();
});

// The first few that are on the screen move, the others change now and then.
function watch() {
  const isHere = !document.hidden && !key.asking;
  const seen = [...tiles.values()].filter((tile) => isHere && tile.isSeen);
  const live = new Set(seen.filter((tile) => tile.element.dataset.state === "streaming")
    .slice(0, MOST_LIVE));
  for (const tile of tiles.values()) {
    if (live.has(tile)) {
      if (tile.query !== tile.wanted()) tile.end();
      if (tile.stopping === null) tile.live();
      if (tile.isFailing) tile.still();
    } else {
      tile.end();
      if (seen.includes(tile) && tile.element.dataset.state === "streaming") tile.still();
    }
  }
}

let isListed = true; // the last list came

async function list() {
  if (document.hidden || key.asking) return;
  let cameras, fault, mayAdd;
  try {
    ({ cameras, fault, may_add: mayAdd } = await ask("cameras"));
  } catch (error) {
    isListed = false;
    if (!key.asking) show($("cameras-error"), error.message);
    return;
  }
  if (!isListed) show($("cameras-error"), "");
  isListed = true;
  show($("cameras-fault"), fault && `Cameras that were added are missing. ${fault}`);
  $("cameras-empty").hidden = cameras.length > 0 || mayAdd;
  $("adding").hidden = !mayAdd;
  const names = cameras.map((camera) => camera.name);
  for (const [name, tile] of tiles) {
    if (names.includes(name)) continue;
    tile.end();
    onScreen.unobserve(tile.element);
    tile.element.remove();
    tiles.delete(name);
  }
  for (const camera of cameras) {
    let tile = tiles.get(camera.name);
    if (!tile) {
      tile = new Tile(camera.name);
      tiles.set(camera.name, tile);
      $("tiles").append(tile.element);
      onScreen.observe(tile.element);
    }
    tile.update(camera);
  }
  fillChoice(names);
  watch();
}

function fillChoice(names) {
  const choice = $("events-of");
  if (names.join("\n") === choice.dataset.names) return;
  choice.dataset.names = names.join("\n");
  const chosen = choice.value;
  const options = names.map((name) => new Option(name, name));
  choice.replaceChildren(new Option("all", ""), ...options);
  choice.value = names.includes(chosen) ? chosen : "";
}

// Events.

const share = (value) => `${Math.round(100 * value)} %`;
const thing = ({ label, score, track }) => `${label} ${share(score)}${track ? ` #${track}` : ""}`;
// A zone's name may be any word: "left", for one.
const place = ({ zones }) => (zones?.length
  ? ` in zone ${zones.map((name) => `\u201c${name}\u201d`).join(", ")}` : "");

const SENTENCES = {
  track_started: ({ fields }) => `${thing(fields)} came${place(fields)}`,
  track_moved: ({ fields }) => `${thing(fields)} moves${place(fields)}`,
  track_ended: ({ fields }) => `${thing(fields)} is gone`,
  classified: ({ fields }) => fields.top5.slice(0, 3)
    .map((one) => `${one.label} ${share(one.probability)}`).join(", "),
  state: ({ fields }) => [STATES[fields.state] ?? fields.state,
    fields.state === "connecting" ? "" : CODES[fields.code]].filter(Boolean).join(". "),
  version_served: ({ model: seen }) => `${seen.name} answers from round ${seen.round} now`,
  version_refused: ({ fields }) => `version ${fields.version} was refused: ${fields.reason}`,
  rolled_back: ({ fields }) => `version ${fields.version} was rolled back` +
    (fields.reason ? `: ${fields.reason}` : ""),
  candidate_ready: () => "is there as candidate",
  candidate_left: () => "is candidate no longer",
};

const told = []; // newest last

// A thing that moves on, and a camera that is still not there, are one line each.
function isMore(before, event) {
  if (before.kind !== event.kind) return false;
  if (event.kind === "track_moved") return true;
  return event.kind === "state" &&
    ![before, event].some((one) => one.fields.state === "streaming");
}

function take(event) {
  if (event.kind === "gap") {
    const count = event.fields.lost ? `${event.fields.lost} events` : "Some events";
    show($("events-lost"), `${count} were missed.`);
    return;
  }
  const before = told.findLastIndex((one) => one.camera === event.camera &&
    one.fields.track === event.fields.track);
  if (before >= 0 && isMore(told[before], event)) told.splice(before, 1);
  told.push(event);
  if (told.length > MOST_EVENTS) told.shift();
  if (event.kind === "state") list();
  if (event.kind === "version_served" || event.kind === "rolled_back") model.look();
}

function rowOf(event) {
  const say = SENTENCES[event.kind];
  const time = make("time", "", timeOf(event.at_s));
  time.dateTime = new Date(1000 * event.at_s).toISOString();
  time.title = new Date(1000 * event.at_s).toLocaleString();
  const where = make("span", "where", event.camera || event.model.name || "model");
  const row = make("li", "", time, where, make("span", "what", say ? say(event) : event.kind),
    make("span", "tag", versionOf(event.model)));
  row.dataset.kind = event.kind;
  if (!row.lastChild.textContent) row.lastChild.remove();
  return row;
}

let isDrawing = false;

// Once per picture of the screen, however many events there are.
function drawEvents() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    const camera = $("events-of").value;
    const rows = told.filter((event) => !camera || event.camera === camera);
    $("events").replaceChildren(...rows.reverse().map(rowOf));
    $("events-empty").hidden = rows.length > 0;
  });
}

async function readEvents() {
  for (let after = ""; ;) {
    if (!document.hidden && !key.asking) {
      const query = after ? `after=${after}` : `last=${MOST_EVENTS}`;
      const stopping = new AbortController();
      const stop = () => document.hidden && stopping.abort();
      document.addEventListener("visibilitychange", stop);
      try {
        const response = await send(`events?${query}`, { signal: stopping.signal });
        if (!response.ok) throw await failure(response);
        for await (const event of events(response)) {
          after = event.id;
          take(event);
          drawEvents();
        }
      } catch {
        // the line above says that the service cannot be reached; tried again below
      }
      document.removeEventListener("visibilitychange", stop);
    }
    await wait(RETRY_MS);
  }
}

$("add").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const fields = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const headers = { "content-type": "application/json" };
  try {
    await ask("cameras", { method: "POST", body: JSON.stringify(fields), headers, keepsKey: true });
    form.reset();
    show($("add-error"), "");
    $("adding").open = false;
  } catch (error) {
    show($("add-error"), error.message);
  }
  list();
});
$("events-of").addEventListener("change", drawEvents);
document.addEventListener("visibilitychange", () => {
  watch();
  list();
});
key.entered = () => {
  model.look();
  list();
};
list();
readEvents();
setInterval(list, LIST_MS);
setInterval(watch, STILL_MS / 4);
