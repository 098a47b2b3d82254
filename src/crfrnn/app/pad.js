// SPDX-License-Identifier: MIT
// A drawing canvas: strokes for several labels and one box, by mouse, touch or keyboard. Runs as js_on_load of gr.HTML;
// Gradio provides `element`, `props`, `trigger` and `watch`. The value is the list of marks as JSON, in image pixels.
const canvas = element.querySelector("canvas");
const context = canvas.getContext("2d");
const labels = element.querySelector(".pad-labels");
const boxTool = element.querySelector(".pad-box");
const width = element.querySelector(".pad-width");
const status = element.querySelector(".pad-status");
const picture = new Image();
let marks = [];
let current = null; // the mark being drawn
let label = 0;
let boxing = false;
let cursor = null; // keyboard cursor, in pixels
let painting = false; // with the keyboard

function colour(number) {
  return (props.colours || [])[number] || "#ffffff";
}

function stroke(mark) {
  context.lineCap = context.lineJoin = "round";
  for (const [rim, ink] of [[2, "#ffffff"], [0, colour(mark.label)]]) {
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = mark.width + rim;
    context.beginPath();
    mark.points.forEach(([x, y], n) => (n ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (mark.points.length === 1) context.lineTo(mark.points[0][0] + 0.01, mark.points[0][1]);
    context.stroke();
  }
}

function frame([left, top, right, bottom]) {
  for (const [ink, dash] of [["#000000", []], ["#ffffff", [6, 6]]]) {
    context.strokeStyle = ink;
    context.lineWidth = 2;
    context.setLineDash(dash);
    context.strokeRect(left, top, right - left, bottom - top);
  }
  context.setLineDash([]);
}

function draw() {
  if (!picture.naturalWidth) return;
  context.drawImage(picture, 0, 0);
  const all = current ? [...marks, current] : marks;
  all.filter((mark) => mark.points).forEach(stroke);
  const boxes = all.filter((mark) => mark.box);
  if (boxes.length) frame(boxes[boxes.length - 1].box);
  if (cursor && document.activeElement === canvas) {
    context.strokeStyle = "#ffffff";
    context.lineWidth = 3;
    for (const ink of ["#000000", "#ffffff"]) {
      context.strokeStyle = ink;
      context.beginPath();
      context.arc(cursor[0], cursor[1], Math.max(5, Number(width.value) / 2 + (ink === "#000000" ? 3 : 1)), 0, 7);
      context.stroke();
      context.lineWidth = 1.5;
    }
  }
}

function say() {
  const strokes = marks.filter((mark) => mark.points).length;
  const boxes = marks.length - strokes;
  const drawn = [strokes || !boxes ? `${strokes} stroke${strokes === 1 ? "" : "s"}` : "", boxes ? "a box" : ""];
  status.textContent = picture.naturalWidth
    ? `Drawn: ${drawn.filter(Boolean).join(", ")}. Drawing: ${boxing ? "a box" : names()[label]}.`
    : "No picture yet: choose one above.";
}

function names() {
  return props.names || ["background", "object 1"];
}

function send() {
  props.value = JSON.stringify(marks);
  say();
  trigger("change");
}

function begin(point) {
  current = boxing ? { box: [...point, ...point] } : { label, width: Number(width.value), points: [point] };
  draw();
}

function extend(point) {
  if (!current) return;
  if (current.box) current.box = [current.box[0], current.box[1], ...point];
  else current.points.push(point);
  draw();
}

function end() {
  if (!current) return;
  if (current.box) {
    marks = marks.filter((mark) => !mark.box);
    const [left, top, right, bottom] = current.box;
    if (Math.abs(right - left) > 3 && Math.abs(bottom - top) > 3) marks.push(current);
  } else marks.push(current);
  current = null;
  draw();
  send();
}

function place(event) {
  const seen = canvas.getBoundingClientRect();
  const x = ((event.clientX - seen.left) * canvas.width) / seen.width;
  const y = ((event.clientY - seen.top) * canvas.height) / seen.height;
  return [Math.round(Math.min(Math.max(x, 0), canvas.width - 1)), Math.round(Math.min(Math.max(y, 0), canvas.height - 1))];
}

function choose(number, box) {
  label = number;
  boxing = box;
  labels.querySelectorAll("button").forEach((button, n) => button.setAttribute("aria-checked", String(!box && n === number)));
  boxTool.setAttribute("aria-pressed", String(box));
  say();
}

function offer() {
  labels.replaceChildren(
    ...names().map((name, number) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("role", "radio");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = colour(number);
      button.append(swatch, name);
      button.addEventListener("click", () => choose(number, false));
      return button;
    }),
  );
  choose(Math.min(label, names().length - 1), boxing);
}

function show() {
  marks = [];
  current = cursor = null;
  painting = false;
  if (props.picture) picture.src = props.picture;
  else picture.removeAttribute("src");
  say();
}

picture.addEventListener("load", () => {
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  canvas.classList.add("ready");
  draw();
  say();
});
canvas.addEventListener("pointerdown", (event) => {
  if (!picture.naturalWidth || event.button) return;
  event.preventDefault();
  canvas.focus();
  cursor = null;
  canvas.setPointerCapture(event.pointerId);
  begin(place(event));
});
canvas.addEventListener("pointermove", (event) => extend(place(event)));
canvas.addEventListener("pointerup", end);
canvas.addEventListener("pointercancel", end);
canvas.addEventListener("focus", draw);
canvas.addEventListener("blur", () => {
  if (painting) end();
  painting = false;
  draw();
});
canvas.addEventListener("keydown", (event) => {
  if (!picture.naturalWidth) return;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if ((event.ctrlKey || event.metaKey) && event.key === "z") {
    undo();
  } else if (moves[event.key]) {
    cursor = cursor || [Math.round(canvas.width / 2), Math.round(canvas.height / 2)];
    const step = event.shiftKey ? 2 : 10;
    const next = [cursor[0] + step * moves[event.key][0], cursor[1] + step * moves[event.key][1]];
    cursor = [Math.min(Math.max(next[0], 0), canvas.width - 1), Math.min(Math.max(next[1], 0), canvas.height - 1)];
    if (painting) extend(cursor);
  } else if (event.key === " " || event.key === "Enter") {
    cursor = cursor || [Math.round(canvas.width / 2), Math.round(canvas.height / 2)];
    painting = !painting;
    if (painting) begin(cursor);
    else end();
  } else if (/^[1-9]$/.test(event.key) && Number(event.key) <= names().length) {
    choose(Number(event.key) - 1, false);
  } else return;
  event.preventDefault();
  draw();
});
function undo() {
  if (!marks.length) return;
  marks.pop();
  draw();
  send();
}
element.querySelector(".pad-undo").addEventListener("click", undo);
element.querySelector(".pad-clear").addEventListener("click", () => {
  if (!marks.length) return;
  marks = [];
  draw();
  send();
});
boxTool.addEventListener("click", () => choose(label, !boxing));
watch("picture", show);
watch(["names", "colours"], () => {
  offer();
  draw();
});
offer();
show();
