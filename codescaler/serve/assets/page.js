// The page: a problem, candidates, and what happens when they are ranked.

import { download, makeCsv, makeJson, makeMarkdown } from "./page-export.js";
import { readFiles } from "./page-files.js";
import { looksLikeCompletion, showRanking } from "./page-ranking.js";
import { ask, count, countLines, describeHidden, fill, get, make, makeVisible } from "./page-text.js";

const EXAMPLE = {
  problem: "Write a function `second_largest(numbers)` that returns the second largest distinct number of a list, "
    + "or None.",
  candidates: [
    { name: "sort.py", text: "def second_largest(numbers):\n    distinct = sorted(set(numbers))\n"
      + "    return distinct[-2] if len(distinct) > 1 else None" },
    { name: "index.py", text: "def second_largest(numbers):\n    return sorted(numbers)[1]" },
    { name: "broken.py", text: "def second_largest(numbers:\n    return sorted(set(numbers))[-2]" },
  ],
};
let ranking = null; // what is shown
let groups = []; // of the last file
let shown = 0; // the group in the form
let numEdits = 0;
let isBusy = false;
let emptySystem = null; // what an empty field of the system prompt stands for

function listCards() {
  return [...get("candidates").children];
}

function readCard(card) {
  const [name, text] = [card.querySelector("input"), card.querySelector("textarea")];
  return { name: name.value || name.placeholder, text: text.value };
}

function addCard(name = "", text = "") {
  const card = make("li", { className: "card" });
  const title = make("input", { value: name, maxLength: 200, spellcheck: false, autocomplete: "off" });
  const remove = make("button", { type: "button", className: "remove" }, "Remove");
  const rows = Math.min(14, Math.max(6, countLines(text) + 1));
  const area = make("textarea", { value: text, rows, spellcheck: false, wrap: "off" });
  const note = make("p", { className: "note", hidden: true });
  card.append(make("div", { className: "head" }, title, remove), area, note);
  remove.addEventListener("click", () => {
    const next = card.nextElementSibling ?? card.previousElementSibling;
    card.remove();
    numberCards();
    markStale();
    (next?.querySelector(".remove") ?? get("add")).focus();
  });
  get("candidates").append(card);
  numberCard(card, get("candidates").children.length - 1);
  noteHidden(area, note);
  return area;
}

function numberCards() {
  listCards().forEach(numberCard);
}

function numberCard(card, index) {
  const [title, area] = [card.querySelector("input"), card.querySelector("textarea")];
  title.placeholder = `Candidate ${index + 1}`;
  title.setAttribute("aria-label", `Name of candidate ${index + 1}`);
  area.setAttribute("aria-label", `Text of candidate ${index + 1}`);
  card.querySelector(".remove").setAttribute("aria-label", `Remove candidate ${index + 1}`);
}

function noteHidden(area, note) {
  const text = describeHidden(area.value);
  if (text || !note.hidden) fill(note, text);
  note.hidden = !text;
}

function markStale() {
  numEdits += 1;
  get("stale").hidden = ranking === null;
}

function fillForm({ problem, system = null, candidates }) {
  get("problem").value = problem;
  get("system").value = system ?? "";
  emptySystem = system === "" ? "" : null; // a group may ask for no system prompt
  get("more").open = Boolean(system);
  noteHidden(get("problem"), get("problem-note"));
  get("candidates").replaceChildren();
  for (const { name, text } of candidates) addCard(name, text);
  while (listCards().length < 2) addCard();
  markStale();
}

function setGroups(list) {
  groups = list;
  get("groups").hidden = list.length < 2;
  get("group").replaceChildren(...list.map(({ name }, index) =>
    make("option", { value: String(index), textContent: `${index + 1}. ${makeVisible(name)}` })));
}

// Shows a problem of the file, and returns what is to be said of it.
function showGroup(index) {
  shown = index;
  const { name, numAbsent } = groups[index];
  fillForm(groups[index]);
  return numAbsent ? `Left out of ${name}: ${count(numAbsent, "candidate")} without code.` : "";
}

// What was written into the form of a group is there when the group is chosen again.
function keepEdits() {
  const candidates = listCards().map(readCard).filter(({ text }) => text.trim());
  groups[shown] = { ...groups[shown], problem: get("problem").value, system: readSystem(), candidates };
}

function readSystem() {
  return get("system").value.trim() ? get("system").value : emptySystem;
}

async function addFiles(files) {
  const found = await readFiles(files);
  const notes = [...found.refused];
  if (found.groups.length) {
    setGroups(found.groups);
    notes.unshift(showGroup(0));
  }
  if (found.problem !== null) {
    emptySystem = null;
    get("problem").value = found.problem;
    noteHidden(get("problem"), get("problem-note"));
  }
  if (found.candidates.length) {
    for (const card of listCards()) if (!readCard(card).text.trim()) card.remove();
    numberCards();
    for (const { name, text } of found.candidates) addCard(name, text);
  }
  markStale();
  const note = notes.filter(Boolean).join(" ");
  if (note) say(note, found.refused.length > 0);
}

function say(text, isError = false) {
  fill(get("message"), text);
  get("message").className = isError ? "error" : "";
}

function chooseExtract(candidates) {
  const chosen = get("extract").value;
  if (chosen !== "auto") return chosen;
  return candidates.every(({ text }) => looksLikeCompletion(text)) ? "markdown" : "";
}

async function rank() {
  const candidates = listCards().map(readCard).filter(({ text }) => text.trim());
  if (!candidates.length) throw new Error("Write a program first, better two.");
  const numBefore = numEdits;
  const [problem, extract] = [get("problem").value, chooseExtract(candidates)];
  const system = readSystem();
  if (!get("model").length) await listModels(); // it failed when the page was opened
  const item = { problem, candidates: candidates.map(({ text }) => text), system };
  const body = { model: get("model").value, items: [item], extract: extract || false, asked_first: true, details: true };
  const answer = await ask("/v1/programs", body);
  const rows = answer.results[0].map((record, index) => ({ ...record, ...candidates[index], index }));
  rows.sort((a, b) => a.details.rank - b.details.rank);
  const [asked, calibratedOn] = [answer.asked[0], answer.calibrated_on];
  ranking = { problem, system, extract, rows, asked, calibratedOn, model: body.model };
  showRanking(ranking);
  get("stale").hidden = numEdits === numBefore;
}

// One thing at a time, and what goes wrong is shown.
async function run(task, message) {
  if (isBusy) return;
  setBusy(true);
  say(message);
  try {
    await task();
    if (get("message").textContent === message) say("");
  } catch (error) {
    say(error.message, true);
  } finally {
    setBusy(false);
  }
}

// A button that is disabled would lose the focus of the keyboard.
function setBusy(value) {
  isBusy = value;
  get("rank").setAttribute("aria-disabled", String(value));
}

async function listModels() {
  for (const { id } of (await ask("/v1/models")).data) {
    get("model").append(make("option", { value: id, textContent: makeVisible(id) }));
  }
}

function listenToFiles() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!hasFiles(event)) return;
    event.preventDefault();
    addFiles([...event.dataTransfer.files]);
  });
  get("choose").addEventListener("click", () => get("files").click());
  get("files").addEventListener("change", () => {
    const files = [...get("files").files];
    get("files").value = "";
    addFiles(files);
  });
}

function listen() {
  get("add").addEventListener("click", () => addCard().focus());
  get("example").addEventListener("click", () => { setGroups([]); fillForm(EXAMPLE); });
  get("clear").addEventListener("click", () => { setGroups([]); fillForm({ problem: "", candidates: [] }); });
  get("group").addEventListener("change", () => {
    keepEdits();
    const note = showGroup(Number(get("group").value));
    if (note) say(note);
  });
  get("form").addEventListener("submit", (event) => { event.preventDefault(); run(rank, "Scoring..."); });
  get("form").addEventListener("input", (event) => {
    markStale();
    if (event.target.id === "system") emptySystem = null;
    const note = event.target.id === "problem" ? get("problem-note") : event.target.parentElement.querySelector(".note");
    if (event.target.tagName === "TEXTAREA" && note) noteHidden(event.target, note);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    get("form").requestSubmit();
  });
  const exports = { json: [makeJson, "ranking.jsonl", "application/jsonl"], csv: [makeCsv, "ranking.csv", "text/csv"],
    markdown: [makeMarkdown, "ranking.md", "text/markdown"] };
  for (const [id, [makeText, name, type]] of Object.entries(exports)) {
    get(id).addEventListener("click", () => download(name, type, makeText(ranking)));
  }
  listenToFiles();
}

addCard();
addCard();
listen();
run(listModels, "");
