"use strict";
const views = document.querySelector(".views");
const slice = document.getElementById("slice");
const choice = document.getElementById("window");
const form = document.querySelector("form.choices");
const shown = [...document.querySelectorAll("img.shown")];
const deepest = Number(slice.max) + 1;
const letters = { l: "left", 1: "left", r: "right", 2: "right" };

function show() {
  const asked = new URLSearchParams({ window: choice ? choice.value : "" });
  document.getElementById("place").textContent = `${Number(slice.value) + 1} of ${deepest}`;
  shown.forEach((image, place) => {
    const depth = Number(image.dataset.depth);
    const z = Math.min(depth - 1, Math.floor(((Number(slice.value) + 0.5) * depth) / deepest));
    image.src = `/item/${views.dataset.number}/${place}/${z}.png?${asked}`;
  });
}

function move(step) {
  slice.value = Number(slice.value) + step;
  show();
}

slice.addEventListener("input", show);
if (choice) choice.addEventListener("change", show);
views.addEventListener("wheel", (event) => {
  event.preventDefault();
  move(Math.sign(event.deltaY));
}, { passive: false });
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own: an answer cannot be changed
  if (event.target.tagName === "SELECT" || event.repeat && !event.key.startsWith("Arrow")) return;
  const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
  if (step) {
    event.preventDefault();
    move(step);
    return;
  }
  const answer = form.dataset.kind === "pairs" ? letters[event.key.toLowerCase()] : event.key;
  const button = [...form.querySelectorAll("button")].find((one) => one.value === answer);
  if (button) button.click();
});
show();
