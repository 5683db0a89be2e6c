"use strict";
const views = document.querySelector(".views");
const slice = document.getElementById("slice");
const choice = document.getElementById("window");
const number = document.getElementById("number");

function show() {
  const window = choice ? choice.value : "";
  number.textContent = Number(slice.value) + 1;
  for (const which of ["source", "result"]) {
    const image = document.getElementById(which);
    if (!image) continue;
    image.src = `/series/${views.dataset.key}/${which}/${slice.value}.png?window=${encodeURIComponent(window)}`;
    image.alt = `${which}, slice ${Number(slice.value) + 1}`;
  }
}

slice.addEventListener("input", show);
if (choice) choice.addEventListener("change", show);
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
