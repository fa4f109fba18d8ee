// The ranking: a row for each candidate, which opens to its program by line and to what extraction left out.

import { describe, showBoth, showProgram } from "./page-heat.js";
import { ask, count, countLines, fill, formatChance, get, make, makeVisible } from "./page-text.js";

export function showRanking(ranking) {
  const span = findSpan(ranking);
  for (const body of [...get("ranking").tBodies]) body.remove();
  get("ranking").append(...ranking.rows.map((row) => makeRow(row, ranking, span)));
  fill(get("measured"), explainChances(ranking));
  get("ranking").classList.toggle("uncalibrated", !ranking.calibratedOn);
  get("results").hidden = false;
  // What was hidden is read out only if it changes afterwards.
  fill(get("summary"), "");
  requestAnimationFrame(() => fill(get("summary"), summarize(ranking)));
}

// How far below the best score a bar is empty: never so little that a small gap would look large.
function findSpan({ rows, calibratedOn }) {
  const gaps = rows.map((row) => row.details.gap_to_first ?? 0);
  return Math.max(...gaps, calibratedOn?.largest_gap || 1);
}

function summarize({ rows, asked, extract }) {
  const [first, next] = rows;
  const parts = [];
  if (!first.is_valid) {
    parts.push("No candidate is a program that parses.");
  } else if (first.missing.length) {
    parts.push(`No program defines ${asked.join(" and ")}. ${first.name} is first of ${rows.length}.`);
  } else if (first.details.gap_to_next === null) {
    parts.push(`${first.name} is first of ${rows.length}.`);
  } else {
    const gap = first.details.gap_to_next.toFixed(3);
    parts.push(`${first.name} is first of ${rows.length}, and ${gap} ahead of ${next.name}.`);
    const chance = next.details.first_is_correct;
    if (chance) parts.push(`At such a gap the first was correct in ${Object.values(formatChance(chance)).join(" ")}.`);
  }
  if (asked.length && !first.missing.length) parts.push(`The problem asks for ${asked.join(" and ")}.`);
  const ways = { paper: "their one block", last: "their last block", markdown: "their block, by Markdown" };
  parts.push(extract ? `Candidates were read as completions: ${ways[extract]}.` : "Candidates were read as programs.");
  return parts.join(" ");
}

function explainChances({ calibratedOn, model }) {
  if (!calibratedOn) {
    return `How often such gaps are correct is not known for ${model}. codescaler eval calibration measures it.`;
  }
  return "First is correct: of a correct and an incorrect program as far apart, the higher-scored was correct so often "
    + `on ${calibratedOn.name} (${calibratedOn.num_problems} problems) [95% interval].`;
}

function makeRow(row, ranking, span) {
  const { details } = row;
  const id = `detail-${details.rank}`;
  const attributes = { "aria-expanded": "false", "aria-controls": id };
  const button = make("button", { type: "button", className: "open", attributes }, row.name);
  const name = make("th", { scope: "row" }, button);
  if (details.same_as !== null) {
    const twin = ranking.rows.find((other) => other.index === details.same_as);
    name.append(make("small", {}, `the program of ${twin.name}`));
  }
  const score = make("td", { className: "score" }, row.score === null ? "none" : row.score.toFixed(3));
  if (details.gap_to_first !== null) score.append(drawBar(1 - details.gap_to_first / span));
  if (details.first_is_correct) {
    score.append(make("small", { className: "narrow" }, formatChance(details.first_is_correct).short));
  }
  const behind = details.gap_to_first !== null && details.rank > 1 ? details.gap_to_first.toFixed(3) : "";
  const line = make("tr", { className: row.is_valid && !row.missing.length ? "" : "behind" },
    make("td", { className: "rank" }, String(details.rank)), name, score,
    make("td", { className: "number wide" }, behind), makeChance(details), makeChecks(row, ranking));
  const cell = make("td", { colSpan: 6 });
  const detail = make("tr", { id, className: "detail", hidden: true }, cell);
  button.addEventListener("click", () => {
    detail.hidden = !detail.hidden;
    button.setAttribute("aria-expanded", String(!detail.hidden));
    if (!detail.hidden && cell.querySelector(".said.error")) cell.replaceChildren(); // asks again
    if (!cell.hasChildNodes()) fillDetail(cell, row, ranking);
  });
  return make("tbody", {}, line, detail);
}

function makeChance(details) {
  const cell = make("td", { className: "chance" });
  if (details.first_is_correct) {
    const { short, interval } = formatChance(details.first_is_correct);
    cell.append(make("span", {}, short), " ", make("small", {}, interval));
  }
  return cell;
}

// Whether the program parses, and defines what is asked for. A sign and words, for those who see no colours.
function makeChecks(row, { asked, extract }) {
  const cell = make("td", { className: "checks" });
  const add = (isGood, text, note) => {
    const look = { className: isGood ? "good" : "bad", attributes: { "aria-hidden": "true" } };
    const sign = make("span", look, isGood ? "\u2713 " : "\u2717 ");
    cell.append(make("div", {}, sign, text));
    if (note) cell.append(make("small", {}, note));
  };
  const hasFence = !extract && looksLikeCompletion(row.text);
  const hint = hasFence ? "It holds a fenced block: rank it as a completion." : row.details.syntax_error;
  add(row.is_valid, row.is_valid ? "parses" : row.details.invalid_because, row.is_valid ? "" : hint);
  if (row.details.program !== null && row.is_valid && asked.length) {
    const isGood = !row.missing.length;
    add(isGood, `${isGood ? "defines" : "does not define"} ${(isGood ? asked : row.missing).join(", ")}`);
  }
  return cell;
}

function drawBar(share) {
  const bar = make("span");
  bar.style.width = `${100 * Math.max(0, share)}%`; // the policy of the page forbids styles in markup alone
  return make("span", { className: "bar", attributes: { "aria-hidden": "true" } }, bar);
}

export function looksLikeCompletion(text) {
  return /^ {0,3}(```|~~~)/m.test(text);
}

function fillDetail(cell, row, ranking) {
  const { program } = row.details;
  if (program !== null) {
    const picture = make("div", { className: "picture" });
    const said = make("p", { className: "said", attributes: { role: "status" } });
    const others = ranking.rows.filter((other) => other !== row && other.details.program !== null);
    const beside = make("select", {}, make("option", { value: "", textContent: "nothing" }));
    for (const other of others) {
      const text = `${other.details.rank}. ${makeVisible(other.name)}`;
      beside.append(make("option", { value: String(other.index), textContent: text }));
    }
    const show = () => {
      const other = others.find((one) => String(one.index) === beside.value);
      showLines(picture, said, other ? [row, other] : [row], ranking);
    };
    beside.addEventListener("change", show);
    const legend = make("span", { className: "legend quiet" },
      make("span", { className: "fall3" }, "lowers"), make("span", { className: "rise3" }, "raises"), "the score,",
      make("span", { className: "drop" }, "\u25bc lowers it most"));
    const label = make("label", { className: "inline" }, make("span", {}, "Compare with"), beside);
    cell.append(make("div", { className: "tools" }, label, legend), said, picture);
    show();
  }
  if (ranking.extract) cell.append(showExtraction(row, ranking.extract));
  if (!cell.hasChildNodes()) cell.append(showText("The text", row.text));
}

// Lines are asked for when a row is opened. An answer that comes late does not replace a later one.
async function showLines(picture, said, rows, { problem, system, model }) {
  const names = rows.map((row) => row.name);
  picture.asked = rows;
  fill(said, "Scoring the lines...");
  said.className = "said";
  try {
    const programs = rows.map((row) => row.details.program);
    const answer = await ask("/v1/trace", { model, problem, programs, system });
    if (picture.asked !== rows) return;
    const isPair = rows.length > 1;
    picture.replaceChildren(isPair ? showBoth(names, answer.programs, answer.common)
      : showProgram(names[0], answer.programs[0]));
    fill(said, describe(names, answer.programs, answer.common));
  } catch (error) {
    if (picture.asked !== rows) return;
    picture.replaceChildren();
    fill(said, error.message);
    said.className = "said error";
  }
}

// What extraction left out of a completion: what stands before the program and behind it.
function showExtraction(row, extract) {
  const text = row.text.replace(/\r\n?/g, "\n");
  const { program } = row.details;
  const at = program === null ? -1 : extract === "last" ? text.lastIndexOf(program) : text.indexOf(program);
  if (at < 0) return showText("The whole completion", text);
  const before = text.slice(0, at).trimEnd();
  const after = text.slice(at + program.length).trim();
  const title = `Extraction left out ${count(countLines(before), "line")} before the program and `
    + `${count(countLines(after), "line")} behind it`;
  const box = showText(title, before);
  if (before && after) box.append(make("p", { className: "quiet" }, "\u2026 the program \u2026"));
  if (after) box.append(make("pre", { className: "text" }, after));
  return box;
}

function showText(title, text) {
  const box = make("details", {}, make("summary", {}, title));
  if (text) box.append(make("pre", { className: "text" }, text));
  return box;
}
