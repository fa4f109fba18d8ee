// Scores by line: one program, or two side by side. Shades, common lines and the largest drop are the server's.

import { count, fill, formatChange, make, makeVisible } from "./page-text.js";

export function showProgram(name, traced) {
  const rows = traced.lines.map((line) => {
    const cells = makeCells(line, traced);
    cells.splice(1, 0, make("td", { className: "number" }, line.score.toFixed(3)));
    return make("tr", { className: nameClasses(line, traced) }, ...cells);
  });
  return makeTable(["Line", "Score", "Change", "Program"], rows, `Scores by line of ${name}`);
}

export function showBoth(names, traced, common) {
  const rows = align(traced, common).map((lines) => {
    const cells = lines.map((line, side) => {
      const made = line === null ? [make("td", { className: "gap", colSpan: 3 })] : makeCells(line, traced[side]);
      const classes = line === null ? "" : nameClasses(line, traced[side]);
      for (const cell of made) cell.classList.add(...classes.split(" ").filter(Boolean));
      return made;
    });
    cells[1][0].classList.add("start");
    return make("tr", {}, ...cells.flat());
  });
  const header = ["Line", "Change", "Program"];
  const table = makeTable([...header, ...header], rows, `Scores by line of ${names.join(" and ")}`);
  const captions = names.map((name, side) => make("th", { colSpan: 3, scope: "colgroup", className: side ? "start" : "" },
    `${name}: ${traced[side].score.toFixed(3)}`));
  table.querySelector("thead").prepend(make("tr", { className: "names" }, ...captions));
  table.querySelectorAll("thead tr:last-child th")[3].classList.add("start");
  const columns = ["line", "change", "", "line", "change", ""].map((className) => make("col", { className }));
  table.querySelector("table").prepend(make("colgroup", {}, ...columns));
  table.querySelector("table").classList.add("both");
  return table;
}

// Says in words what the colours show.
export function describe(names, traced, common) {
  const drops = traced.map(({ largest_drop: number, lines }, side) => {
    if (number === null) return `No line${common.length ? " of its own" : ""} lowers the score of ${names[side]}.`;
    return `Largest drop of ${names[side]}: line ${number} (${formatChange(lines[number - 1].change)}).`;
  });
  if (traced.length < 2) return drops.join(" ");
  const firsts = traced.map(({ lines }) => lines.find((line) => !line.is_common));
  const places = firsts.map((line) => (line ? `line ${line.number}` : "their end"));
  const parting = firsts.some(Boolean) ? `They part at ${[...new Set(places)].join(" and ")}.` : "They are the same.";
  return `${parting} In both: ${count(common.length, "line")}. ${drops.join(" ")}`;
}

function makeTable(header, rows, label) {
  const titles = header.map((title) =>
    make("th", { scope: "col", className: title === "Program" ? "" : "number" }, title));
  const table = make("table", { className: "heat" }, make("thead", {}, make("tr", {}, ...titles)));
  table.append(make("tbody", {}, ...rows));
  const attributes = { role: "region", "aria-label": makeVisible(label) };
  return make("div", { className: "scroll", tabIndex: 0, attributes }, table);
}

function makeCells(line, traced) {
  const change = make("td", { className: "number" }, formatChange(line.change));
  if (line.number === traced.largest_drop) change.prepend(make("span", { title: "largest drop" }, "\u25bc "));
  const code = make("code");
  fill(code, line.text);
  return [make("td", { className: "number quiet" }, String(line.number)), change, make("td", {}, code)];
}

function nameClasses(line, traced) {
  const shade = line.shade ? `${line.shade < 0 ? "fall" : "rise"}${Math.abs(line.shade)}` : "";
  return [shade, line.is_common ? "common" : "", line.number === traced.largest_drop ? "drop" : ""].join(" ").trim();
}

// Common lines stand beside each other. Between them, lines of the one stand beside those of the other.
function align([left, right], common) {
  const rows = [];
  let [a, b] = [0, 0];
  const end = [left.lines.length + 1, right.lines.length + 1];
  for (const [toLeft, toRight] of [...common, end]) {
    const lines = [left.lines.slice(a, toLeft - 1), right.lines.slice(b, toRight - 1)];
    for (let k = 0; k < Math.max(lines[0].length, lines[1].length); k += 1) {
      rows.push([lines[0][k] ?? null, lines[1][k] ?? null]);
    }
    if (toLeft < end[0]) rows.push([left.lines[toLeft - 1], right.lines[toRight - 1]]);
    [a, b] = [toLeft, toRight];
  }
  return rows;
}
