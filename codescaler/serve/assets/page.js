"use strict";
// Text enters the page by textContent alone, so that nothing in it is markup.
const get = (id) => document.getElementById(id);

// Control characters and marks of direction could make a program look like another one.
function makeVisible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));
}

function addProgram() {
  const label = document.createElement("label");
  label.textContent = "Program " + (get("programs").children.length + 1);
  const area = document.createElement("textarea");
  area.rows = 6;
  label.append(area);
  get("programs").append(label);
}

function makeHeaders() {
  const headers = { "content-type": "application/json" };
  if (get("key").value) headers.authorization = "Bearer " + get("key").value;
  return headers;
}

async function listModels() {
  const answer = await fetch("/v1/models", { headers: makeHeaders() });
  if (!answer.ok) return;
  for (const model of (await answer.json()).data) {
    const option = document.createElement("option");
    option.value = model.id;
    option.textContent = makeVisible(model.id);
    get("model").append(option);
  }
}

async function rank() {
  const programs = [...document.querySelectorAll("#programs textarea")].map((area) => area.value).filter((text) => text);
  const item = { problem: get("problem").value, candidates: programs };
  const body = JSON.stringify({ model: get("model").value || null, items: [item] });
  get("message").textContent = "Scoring...";
  const answer = await fetch("/v1/programs", { method: "POST", headers: makeHeaders(), body });
  const result = await answer.json();
  get("message").textContent = answer.ok ? "" : makeVisible(result.error.message);
  get("ranking").hidden = !answer.ok;
  if (answer.ok) showRanking(programs, result.results[0]);
}

function showRanking(programs, records) {
  const rows = records.map((record, index) => ({ ...record, program: programs[index] }));
  rows.sort((a, b) => b.is_valid - a.is_valid || b.score - a.score);
  const body = get("ranking").tBodies[0];
  body.replaceChildren(...rows.map((row, index) => {
    const line = document.createElement("tr");
    const cells = [String(index + 1), row.score.toFixed(3) + (row.is_valid ? "" : " (does not parse)"), row.program];
    cells.forEach((text, column) => {
      const cell = document.createElement("td");
      const holder = column === 2 ? document.createElement("pre") : cell;
      holder.textContent = makeVisible(text);
      if (holder !== cell) cell.append(holder);
      line.append(cell);
    });
    if (!row.is_valid) line.className = "invalid";
    return line;
  }));
}

get("add").addEventListener("click", addProgram);
get("rank").addEventListener("click", () => rank().catch((error) => { get("message").textContent = String(error); }));
get("key").addEventListener("change", () => { get("model").replaceChildren(); listModels(); });
addProgram();
addProgram();
listModels();
