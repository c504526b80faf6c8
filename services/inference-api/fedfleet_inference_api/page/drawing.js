"use strict";

// Draws what a detector found over the image on the page.

// Okabe and Ito's colours, as in the cameras' pictures.
const COLORS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2"];
const DARK_TEXT = ["#e69f00", "#56b4e9", "#f0e442", "#cc79a7"];
const LEAST_SIDE = 480; // an image of few pixels is enlarged, so that labels can be read on it

const colorOf = (index) => COLORS[index % COLORS.length];

function fit(canvas, width, height, least, most) {
  const side = Math.max(width, height);
  const scale = side > most ? most / side : Math.max(1, Math.floor(least / side));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  return scale;
}

function drawBoxes(canvas, detections) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  // Texts are as large as the page's own, whatever room the page has for the picture.
  const shrunk = canvas.clientWidth ? Math.max(1, width / canvas.clientWidth) : 1;
  const size = Math.round(Math.max(13 * shrunk, Math.max(width, height) / 40));
  const line = Math.max(2, Math.round(size / 6));
  context.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const { index, box } of [...detections].reverse()) { // the surest on top
    const [x, y] = [box.left * width, box.top * height];
    const [w, h] = [(box.right - box.left) * width, (box.bottom - box.top) * height];
    context.lineWidth = line + 2;
    context.strokeStyle = "#10131ecc";
    context.strokeRect(x, y, w, h);
    context.lineWidth = line;
    context.strokeStyle = colorOf(index);
    context.strokeRect(x, y, w, h);
  }
  const tall = size * 1.5;
  const placed = [];
  for (const { label, index, score, box } of detections) { // the surest chooses first
    const text = `${label.slice(0, 40)} ${Math.round(100 * score)} %`;
    const wide = Math.min(width, context.measureText(text).width + size);
    const spot = placeLabel(box, { width, height, wide, tall, line }, placed);
    placed.push(spot);
    context.fillStyle = colorOf(index);
    context.fillRect(spot.left, spot.top, wide, tall);
    context.fillStyle = DARK_TEXT.includes(colorOf(index)) ? "#10131e" : "#ffffff";
    context.fillText(text, spot.left + size / 2, spot.top + tall / 2, wide - size);
  }
  return placed;
}

// Where a label covers none that is there already: on a box's corners, or inside them; else where
// it covers least. All in pixels but for the box, whose sides are shares.
function placeLabel(box, { width, height, wide, tall, line }, placed) {
  const [x0, x1] = [box.left * width - line / 2, box.right * width + line / 2 - wide];
  const [y0, y1] = [box.top * height, box.bottom * height];
  const tops = [y0 - tall, y0, y1, y1 - tall];
  const spots = tops.flatMap((top) => [[x0, top], [x1, top]])
    .filter(([, top]) => top >= 0 && top + tall <= height);
  if (!spots.length) spots.push([x0, Math.max(0, Math.min(y0, height - tall))]);
  const free = spots.map(([left, top]) => {
    const spot = { left: Math.max(0, Math.min(left, width - wide)), top, wide, tall };
    const hidden = placed.reduce((sum, other) => sum + shared(spot, other), 0);
    return { spot, hidden };
  });
  return free.reduce((best, one) => (one.hidden < best.hidden ? one : best)).spot;
}

// The area that two labels have in common.
function shared(one, other) {
  const across = Math.min(one.left + one.wide, other.left + other.wide) - Math.max(one.left, other.left);
  const down = Math.min(one.top + one.tall, other.top + other.tall) - Math.max(one.top, other.top);
  return Math.max(0, across) * Math.max(0, down);
}
