"use strict";
// Text enters the page by textContent alone, so that nothing in it is markup.
const get = (id) => document.getElementById(id);

const EXAMPLE = {
  problem: "Write a function second_largest(numbers) that returns the second largest distinct number of a list, or None.",
  programs: [
    "def second_largest(numbers):\n    return sorted(numbers)[1]",
    "def second_largest(numbers):\n    distinct = sorted(set(numbers))\n"
      + "    return distinct[-2] if len(distinct) > 1 else None",
  ],
};

// Control characters and marks of direction could make a program look like another one.
function makeVisible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));
}

function makeElement(name, text) {
  const element = document.createElement(name);
  element.textContent = makeVisible(text);
  return element;
}

function addProgram() {
  const label = makeElement("label", "Program " + (get("programs").children.length + 1));
  const area = document.createElement("textarea");
  area.rows = 5;
  area.spellcheck = false;
  label.append(area);
  get("programs").append(label);
  return area;
}

function fillExample() {
  get("problem").value = EXAMPLE.problem;
  const areas = [...document.querySelectorAll("#programs textarea")];
  EXAMPLE.programs.forEach((program, index) => { (areas[index] || addProgram()).value = program; });
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  const result = await answer.json();
  if (!answer.ok) throw new Error(result.error.message);
  return result;
}

async function listModels() {
  for (const model of (await ask("/v1/models")).data) {
    const option = makeElement("option", model.id);
    option.value = model.id;
    get("model").append(option);
  }
}

async function rank() {
  const texts = [...document.querySelectorAll("#programs textarea")].map((area) => area.value);
  const numbers = [...texts.keys()].filter((index) => texts[index].trim());
  if (!numbers.length) throw new Error("Write a program first, better two.");
  const item = { problem: get("problem").value, candidates: numbers.map((index) => texts[index]) };
  const body = JSON.stringify({ model: get("model").value, items: [item] });
  const headers = { "content-type": "application/json" };
  const { results } = await ask("/v1/programs", { method: "POST", headers, body });
  showRanking(results[0].map((record, index) => ({ ...record, number: numbers[index], text: item.candidates[index] })));
}

function showRanking(rows) {
  rows.sort((a, b) => b.is_valid - a.is_valid || b.score - a.score || a.number - b.number);
  get("ranking").tBodies[0].replaceChildren(...rows.map((row, index) => {
    const line = document.createElement("tr");
    const program = document.createElement("td");
    const note = "Program " + (row.number + 1) + (row.is_valid ? "" : ", does not parse");
    program.append(makeElement("small", note), makeElement("pre", row.text));
    line.append(makeElement("td", String(index + 1)), makeElement("td", row.score.toFixed(3)), program);
    line.className = row.is_valid ? "" : "invalid";
    return line;
  }));
  get("ranking").hidden = false;
}

// One thing at a time, and what goes wrong is shown.
async function run(task, message) {
  get("message").textContent = message;
  get("rank").disabled = true;
  try {
    await task();
    get("message").textContent = "";
  } catch (error) {
    get("message").textContent = makeVisible(error.message);
  } finally {
    get("rank").disabled = false;
  }
}

get("add").addEventListener("click", () => addProgram().focus());
get("example").addEventListener("click", fillExample);
get("form").addEventListener("submit", (event) => { event.preventDefault(); run(rank, "Scoring..."); });
addProgram();
addProgram();
run(listModels, "");
