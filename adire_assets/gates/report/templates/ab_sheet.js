"use strict";
const sheet = JSON.parse(document.getElementById("sheet").textContent);
const element = (id) => document.getElementById(id);
const storageKey = "adire-sheet-" + sheet.nonce;
const buttons = [...document.querySelectorAll("[data-choice]")];
const total = sheet.pairs.length;
let state = { rater: "", choices: {} };
try {
  state = JSON.parse(localStorage.getItem(storageKey)) || state;
} catch { /* no storage: the choices last as long as the page */ }
const firstOpen = () => {
  const place = sheet.pairs.findIndex((pair) => !(pair.name in state.choices));
  return place < 0 ? total : place;
};
let place = firstOpen();

function keep() {
  try { localStorage.setItem(storageKey, JSON.stringify(state)); } catch { /* as above */ }
}

function show() {
  const finished = place >= total;
  const rated = Object.keys(state.choices).length;
  element("rating").hidden = finished;
  element("done").hidden = !finished;
  element("count").textContent = finished ? `${rated} of ${total} rated`
    : `Pair ${place + 1} of ${total}`;
  element("progress").value = rated;
  if (finished) {
    element("rater").value = state.rater;
    element("thanks").focus();
    return;
  }
  const pair = sheet.pairs[place];
  element("prompt").textContent = pair.prompt;
  for (const side of ["left", "right"]) {
    const { picture, text } = pair[side];
    element(side).hidden = picture === undefined;
    element(side + "-text").hidden = text === undefined;
    if (picture !== undefined) element(side).src = picture;
    element(side + "-text").textContent = text ?? "";
  }
  for (const button of buttons) {
    button.setAttribute("aria-pressed", state.choices[pair.name] === button.dataset.choice);
  }
  element("back").disabled = place === 0;
}

function choose(choice) {
  if (place >= total) return;
  state.choices[sheet.pairs[place].name] = choice;
  keep();
  place = place + 1 < total ? place + 1 : firstOpen();
  show();
}

function back() {
  place = Math.max(0, Math.min(place, total) - 1);
  show();
}

for (const button of buttons) {
  button.addEventListener("click", () => { button.blur(); choose(button.dataset.choice); });
}
for (const side of ["left", "right"]) element(side).addEventListener("click", () => choose(side));
element("back").addEventListener("click", back);
element("again").addEventListener("click", back);
document.addEventListener("keydown", (event) => {
  if (place >= total || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
  if (choice) { event.preventDefault(); choose(choice); }
  if (event.key === "Backspace") { event.preventDefault(); back(); }
});
element("rater").addEventListener("input", (event) => {
  state.rater = event.target.value;
  keep();
});
element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { model, challenger, champion, nonce } = sheet;
  const rater = element("rater").value.trim();
  if (!rater) { element("rater").value = ""; element("rater").reportValidity(); return; }
  const ratings = { model, challenger, champion, nonce, rater, choices: state.choices };
  const text = JSON.stringify(ratings, null, 2) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = "ratings.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
show();
