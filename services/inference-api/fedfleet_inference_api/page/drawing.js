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
  const size = Math.max(13, Math.round(Math.max(width, height) / 40));
  const line = Math.max(2, Math.round(size / 6));
  context.font = `600 ${size}px system-ui, "DejaVu Sans", sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (const { label, index, score, box } of [...detections].reverse()) { // the surest on top
    const [x, y] = [box.left * width, box.top * height];
    const [w, h] = [(box.right - box.left) * width, (box.bottom - box.top) * height];
    const color = colorOf(index);
    context.lineWidth = line + 2;
    context.strokeStyle = "#10131ecc";
    context.strokeRect(x, y, w, h);
    context.lineWidth = line;
    context.strokeStyle = color;
    context.strokeRect(x, y, w, h);
    const text = `${label.slice(0, 40)} ${Math.round(100 * score)} %`;
    const room = context.measureText(text).width + size;
    const tall = size * 1.5;
    const left = Math.max(0, Math.min(x - line / 2, width - room));
    const top = y >= tall ? y - tall : y;
    context.fillStyle = color;
    context.fillRect(left, top, room, tall);
    context.fillStyle = DARK_TEXT.includes(color) ? "#10131e" : "#ffffff";
    context.fillText(text, left + size / 2, top + tall / 2);
  }
}
