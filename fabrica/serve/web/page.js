"use strict";
const views = document.querySelector(".views");
const slice = document.getElementById("slice");
const choice = document.getElementById("window");
const overlay = document.getElementById("overlay");
const number = document.getElementById("number");
const shown = ["source", "result"].map((name) => document.getElementById(name)).filter(Boolean);

function show() {
  const asked = new URLSearchParams({ window: choice ? choice.value : "", overlay: overlay ? overlay.value : "" });
  number.textContent = Number(slice.value) + 1;
  for (const image of shown) {
    image.src = `/series/${views.dataset.key}/${image.id}/${slice.value}.png?${asked}`;
    image.alt = `${image.id}, slice ${Number(slice.value) + 1}`;
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
for (const select of [choice, overlay]) if (select) select.addEventListener("change", show);
document.addEventListener("keydown", (event) => {
  if (["INPUT", "SELECT"].includes(event.target.tagName) && event.target !== slice) return;
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
