"use strict";

// A line chart of few parts, drawn as SVG.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 14, right: 18, bottom: 26, left: 52 };
const MOST_DOTS = 80;

function svg(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

// Round numbers that cover a range, about count of them.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((one) => one * power >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
  return found;
}

// points: {x, y, isServed, names}, oldest first; y null: no value, the line is dotted over it.
function drawChart(chart, points, { xName, onPoint }) {
  const width = chart.clientWidth || 640;
  const height = chart.clientHeight || 260;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  chart.replaceChildren();
  const valued = points.filter((point) => point.y !== null);
  if (!valued.length) {
    const middle = { x: width / 2, y: height / 2, class: "quiet", "text-anchor": "middle" };
    chart.append(svg("text", middle, "No version was evaluated yet."));
    return;
  }
  const xs = points.map((point) => point.x);
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  const ys = valued.map((point) => point.y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const pad = Math.max(0.02, (high - low) * 0.15);
  // One value has no range of its own: it stands on the scale of all that it could be.
  const [y0, y1] = valued.length > 1 ? [Math.max(0, low - pad), Math.min(1, high + pad)] : [0, 1];
  const place = (point) => [
    MARGIN.left + (x1 > x0 ? (point.x - x0) / (x1 - x0) : 0.5) *
      (width - MARGIN.left - MARGIN.right),
    height - MARGIN.bottom - (point.y - y0) / (y1 - y0) * (height - MARGIN.top - MARGIN.bottom),
  ];
  drawAxes(chart, { width, height, x0, x1, y0, y1, place, xName });
  drawLine(chart, points, place);
  drawDots(chart, valued, place, width);
  const marker = svg("circle", { r: 7, class: "marker", visibility: "hidden" });
  chart.append(marker);
  chart.onpointermove = (event) => {
    const at = (event.clientX - chart.getBoundingClientRect().left) * width / chart.clientWidth;
    const near = valued.reduce((best, point) =>
      (Math.abs(place(point)[0] - at) < Math.abs(place(best)[0] - at) ? point : best));
    const [x, y] = place(near);
    for (const [name, value] of [["cx", x], ["cy", y], ["visibility", "visible"]]) {
      marker.setAttribute(name, value);
    }
    onPoint(near);
  };
  chart.onpointerleave = () => {
    marker.setAttribute("visibility", "hidden");
    onPoint(null);
  };
}

function drawAxes(chart, { width, height, x0, x1, y0, y1, place, xName }) {
  const digits = y1 - y0 < 0.05 ? 1 : 0;
  for (const y of ticks(y0, y1, height / 60)) {
    const at = place({ x: x0, y })[1];
    chart.append(
      svg("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: at, y2: at, class: "grid" }),
      svg("text", { x: MARGIN.left - 8, y: at + 4, "text-anchor": "end", class: "quiet" },
        `${(100 * y).toFixed(digits)} %`));
  }
  for (const x of ticks(x0, x1, width / 90).filter(Number.isInteger)) {
    const at = place({ x, y: y0 })[0];
    chart.append(svg("text",
      { x: at, y: height - MARGIN.bottom + 16, "text-anchor": "middle", class: "quiet" }, x));
  }
  chart.append(svg("text",
    { x: MARGIN.left - 8, y: height - MARGIN.bottom + 16, "text-anchor": "end", class: "quiet" },
    xName));
}

// Whole between neighbours that were evaluated, dotted over those that were not.
function drawLine(chart, points, place) {
  let path = "", between = "";
  let isBroken = true;
  let last = ""; // the place of the one before that has a value
  for (const point of points) {
    if (point.y === null) {
      isBroken = true;
      continue;
    }
    const here = place(point).map((one) => one.toFixed(1)).join(" ");
    path += `${isBroken ? "M" : "L"}${here}`;
    if (isBroken && last) between += `M${last}L${here}`;
    isBroken = false;
    last = here;
  }
  chart.append(svg("path", { d: between, class: "line between" }),
    svg("path", { d: path, class: "line" }));
}

function drawDots(chart, valued, place, width) {
  for (const point of valued) {
    const [x, y] = place(point);
    if (valued.length <= MOST_DOTS || point.isServed) {
      chart.append(svg("circle",
        { cx: x, cy: y, r: point.isServed ? 6 : 3, class: point.isServed ? "dot now" : "dot" }));
    }
    if (point.names.length) {
      const anchor = x > width - 90 ? "end" : x < MARGIN.left + 60 ? "start" : "middle";
      const up = y < MARGIN.top + 22 ? 22 : -12;
      chart.append(svg("text", { x, y: y + up, "text-anchor": anchor, class: "name" },
        point.names.join(", ")));
    }
  }
}
