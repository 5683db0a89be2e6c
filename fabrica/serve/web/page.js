"use strict";
const views = document.querySelector(".views");
const slice = document.getElementById("slice");
const choice = document.getElementById("window");
const overlay = document.getElementById("overlay");
const draw = document.getElementById("draw");
const which = document.getElementById("which");
const stored = which ? which.textContent : "";
const number = document.getElementById("number");
const shown = ["source", "result"].map((name) => document.getElementById(name)).filter(Boolean);

function show() {
  const asked = new URLSearchParams({ window: choice ? choice.value : "", overlay: overlay ? overlay.value : "" });
  document.getElementById("legend").textContent = overlay ? overlay.selectedOptions[0].dataset.legend : "";
  number.textContent = Number(slice.value) + 1;
  for (const image of shown) {
    const drawn = image.id === "result" && draw && draw.value !== "";
    image.src = `/series/${views.dataset.key}/${drawn ? `draw-${draw.value}` : image.id}/${slice.value}.png?${asked}`;
    image.alt = `${drawn ? `draw ${Number(draw.value) + 1}` : image.id}, slice ${Number(slice.value) + 1}`;
    if (drawn) which.textContent = `SYNTHETIC draw ${Number(draw.value) + 1}, as it was drawn: not stored, not sent`;
    else if (which && image.id === "result") which.textContent = stored;
  }
  clear();
}

function clear() {
  for (const image of shown) document.getElementById(`at-${image.id}`).textContent = "";
}

function placeOf(event, image) {
  const box = image.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}

function cross(place) {
  for (const mark of document.querySelectorAll(".cross")) {
    mark.style.left = `${100 * place.x}%`;
    mark.style.top = `${100 * place.y}%`;
    mark.classList.add("seen");
  }
}

async function say(place) {
  const asked = new URLSearchParams({ z: slice.value, x: Math.min(place.x, 0.9999), y: Math.min(place.y, 0.9999) });
  if (draw && draw.value !== "") asked.set("draw", draw.value);
  const answer = await fetch(`/series/${views.dataset.key}/values?${asked}`);
  if (!answer.ok) return;
  const found = await answer.json();
  for (const image of shown) {
    const words = Object.entries(found).filter(([name]) => (name === "source") === (image.id === "source"));
    document.getElementById(`at-${image.id}`).textContent = words.map(([name, value]) => `${name} ${value}`).join(", ");
  }
}

for (const image of shown) {
  image.addEventListener("mousemove", (event) => cross(placeOf(event, image)));
  image.addEventListener("click", (event) => say(placeOf(event, image)));
}
slice.addEventListener("input", show);
for (const select of [choice, overlay, draw]) if (select) select.addEventListener("change", show);
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target !== slice) return;
  if (draw && event.key.toLowerCase() === "d" && !event.ctrlKey && !event.metaKey && !event.altKey) {
    draw.selectedIndex = (draw.selectedIndex + (event.key === "d" ? 1 : -1) + draw.length) % draw.length;
    return show();
  }
  const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  slice.value = Number(slice.value) + step;
  show();
});
views.addEventListener("wheel", (event) => {
  event.preventDefault();
  slice.value = Number(slice.value) + Math.sign(event.deltaY);
  show();
}, { passive: false });
show();
