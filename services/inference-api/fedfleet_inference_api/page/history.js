"use strict";

// How a model became what it is: its score per round, its versions, and which of them are served.

const LOAD_MS = 15000;
const FIRST_ROWS = 30;
const MEASURES = { accuracy: "Accuracy", recall: "Recall", map50: "mAP at 0.5", map: "mAP" };

let history_ = null; // the answer on the page; window.history is the browser's
let isWhole = false; // all versions are asked for, and are in the table
let resting = null; // the point that is told of while nobody points at one

const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const sizeOf = (bytes) => (bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB`
  : `${(bytes / 1e6).toFixed(1)} MB`);

async function load() {
  if (document.hidden || key.asking) return;
  try {
    const { models } = await ask("models?limit=1");
    const name = choose(models.map((one) => one.name));
    if (name) history_ = await historyOf(name);
    show($("error"), "");
    draw();
  } catch (error) {
    if (!key.asking) show($("error"), error.message);
  }
}

// The newest versions, oldest first; all of them once somebody has asked for that.
async function historyOf(name) {
  const path = `models/${encodeURIComponent(name)}/history`;
  const found = await ask(path);
  while (isWhole && found.older) {
    const { versions, older } = await ask(`${path}?limit=5000&before=${found.older + 1}`);
    found.versions = [...versions, ...found.versions];
    found.older = older;
  }
  return found;
}

// The model to show: the chosen one, else the one that is served, else the first.
function choose(names) {
  const choice = $("model-choice");
  const served = model.served?.model?.name;
  const wanted = choice.value || (names.includes(served) ? served : names[0]) || "";
  choice.replaceChildren(...names.map((name) => new Option(name, name)));
  choice.value = wanted;
  $("models").hidden = names.length < 2;
  return wanted;
}

const isServed = (version) => {
  const served = model.served?.model;
  return served?.name === history_.name && served.version === version.version;
};

function draw() {
  if (!history_) return;
  const measure = MEASURES[history_.measure] ?? history_.measure;
  const name = history_.measured_by === "workers" ? `${measure} on workers` : measure;
  const total = history_.versions.length + history_.older;
  $("chart-title").textContent = `${name} of ${history_.name}` +
    (history_.older ? `, the newest ${history_.versions.length} of ${total} versions` : "");
  $("measure").textContent = name;
  $("measured").textContent = history_.measured_by === "workers"
    ? "Measured by the workers, each on data of its own, round by round."
    : "Measured by the coordinator on its own test data, round by round.";
  const runs = new Set(history_.versions.map((version) => version.run_id));
  const isOneRun = runs.size === 1; // rounds begin anew with each run
  const points = history_.versions.map((version) => ({
    x: isOneRun ? version.round : version.version,
    y: version.value,
    isServed: isServed(version),
    names: version.aliases,
    version,
  }));
  drawChart($("chart"), points, { xName: isOneRun ? "round" : "version", onPoint: showPoint });
  const valued = points.filter((point) => point.y !== null);
  resting = valued.find((point) => point.isServed) ?? valued.at(-1) ?? null;
  showPoint(null);
  $("chart").setAttribute("aria-label", valued.length
    ? `${name}: ${percent(valued[0].y)} in version ${valued[0].version.version}, ` +
      `${percent(valued.at(-1).y)} in version ${valued.at(-1).version.version}`
    : "no version was evaluated yet");
  drawTable();
}

function showPoint(chosen) {
  const point = chosen ?? resting;
  $("point").textContent = point
    ? `Version ${point.version.version}, round ${point.version.round}: ${percent(point.y)}` +
      (point.version.loss === null ? "" : `, loss ${point.version.loss.toPrecision(3)}`)
    : "\u00a0";
}

function drawTable() {
  const newest = [...history_.versions].reverse();
  const rows = isWhole ? newest : newest.slice(0, FIRST_ROWS);
  $("versions").replaceChildren(...rows.map((version) => {
    const state = make("div", "states");
    if (isServed(version)) state.append(make("span", "tag now", "served"));
    for (const alias of version.aliases) state.append(make("span", "tag", alias));
    if (version.retired) state.append(make("span", "tag old", "retired"));
    const head = make("th", "", String(version.version));
    head.scope = "row";
    head.setAttribute("role", "rowheader");
    const cells = [
      ["round", String(version.round)],
      ["value", version.value === null ? "\u2013" : percent(version.value)],
      ["loss", version.loss === null ? "\u2013" : version.loss.toPrecision(3)],
      ["updates", version.updates === null ? "\u2013" : String(version.updates)],
      ["size", sizeOf(version.size_bytes)],
      ["made", day.format(new Date(version.created_at))],
    ].map(([name, text]) => {
      const cell = make("td", name, text);
      // Where there is no room for the table's head.
      cell.dataset.name = name === "value" ? $("measure").textContent : name;
      return cell;
    });
    const row = make("tr", isServed(version) ? "now" : "", head, ...cells, make("td", "", state));
    // Said, because on a narrow page the style makes them blocks.
    row.setAttribute("role", "row");
    for (const cell of row.querySelectorAll("td")) cell.setAttribute("role", "cell");
    return row;
  }));
  const total = newest.length + history_.older;
  $("more").textContent = `show all ${total}`;
  $("more").hidden = rows.length === total;
}

function showServed(answer) {
  const card = (id, one, note) => {
    const [big, hint] = $(id).querySelectorAll("p");
    big.textContent = one ? `${one.name} ${one.version}` : "none";
    hint.textContent = one ? note : "";
  };
  const way = (one) => one && `round ${one.round}, level ${one.level}, ${one.backend}`;
  const { model: now, previous, candidate, refused } = answer;
  card("now", now, now && (answer.is_held ? `${way(now)}; rolled back by hand` : way(now)));
  card("before", previous, way(previous));
  card("next", candidate?.model, candidate && `answers ${percent(candidate.canary_share)}, ` +
    `is shown ${percent(candidate.shadow_share)}` +
    (candidate.agreement === null ? "" : `; agrees ${percent(candidate.agreement)}`));
  $("refused").hidden = !refused?.length;
  $("refused-list").replaceChildren(...(refused ?? []).map((one) => make("li", "",
    make("strong", "", `${one.model} ${one.version}`), ` ${one.message} (${one.code}), `,
    day.format(new Date(one.at)), one.was_served ? "; it was served until then" : "")));
}

model.looked = showServed;
model.changed = load;
key.entered = () => {
  model.look();
  load();
};
$("model-choice").addEventListener("change", load);
$("more").addEventListener("click", () => {
  isWhole = true;
  load();
});
new ResizeObserver(draw).observe($("chart"));
load();
setInterval(load, LOAD_MS);
