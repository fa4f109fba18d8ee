// A ranking as a file: a group that `codescaler rerank` and this page read, or a table.

import { makeVisible } from "./page-text.js";

const COLUMNS = {
  rank: (row) => row.details.rank,
  name: (row) => row.name,
  score: (row) => row.score,
  is_valid: (row) => row.is_valid,
  invalid_because: (row) => row.details.invalid_because,
  missing: (row) => row.missing.join(" "),
  gap_to_first: (row) => row.details.gap_to_first,
  first_is_correct: (row) => row.details.first_is_correct?.mean,
  low: (row) => row.details.first_is_correct?.interval[0],
  high: (row) => row.details.first_is_correct?.interval[1],
};

export function makeJson(ranking) {
  const candidates = [...ranking.rows].sort((a, b) => a.index - b.index).map((row) => {
    const { program, ...details } = row.details;
    const kept = { name: row.name, code: program, score: row.score, is_valid: row.is_valid, missing: row.missing };
    return { ...kept, ...details, ...(ranking.extract ? { completion: row.text } : {}) };
  });
  const group = { task_id: "page", prompt: ranking.problem, candidates, model: ranking.model };
  if (ranking.system) group.system = ranking.system;
  return JSON.stringify({ ...group, calibrated_on: ranking.calibratedOn }) + "\n";
}

export function makeCsv(ranking) {
  const lines = ranking.rows.map((row) => Object.values(COLUMNS).map((read) => quote(read(row))).join(","));
  return [Object.keys(COLUMNS).join(","), ...lines].join("\r\n") + "\r\n";
}

// A text that begins like a formula would run in a spreadsheet.
function quote(value) {
  if (typeof value !== "string") return String(value ?? "");
  const text = makeVisible(value).replace(/^[=+\-@\t]/, "'$&");
  return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function makeMarkdown(ranking) {
  const lines = ranking.rows.map((row) => {
    const chance = row.details.first_is_correct;
    const notes = [row.details.invalid_because, row.missing.length ? `no ${row.missing.join(", ")}` : ""];
    return [
      String(row.details.rank),
      row.name,
      row.score === null ? "" : row.score.toFixed(3),
      row.details.gap_to_first?.toFixed(3) ?? "",
      chance ? `${Math.round(100 * chance.mean)} of 100` : "",
      notes.filter(Boolean).join("; "),
    ].map(escapeCell);
  });
  const header = ["rank", "candidate", "score", "behind", "first is correct", "notes"];
  return [header, header.map(() => "---"), ...lines].map((cells) => `| ${cells.join(" | ")} |\n`).join("");
}

function escapeCell(text) {
  return makeVisible(text).replace(/[\t\n]+/g, " ").replace(/[\\`*_{}[\]<>|#~&]/g, "\\$&");
}

export function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
