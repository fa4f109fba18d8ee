// Text enters the page by text nodes alone, so that nothing in it is markup. Characters that nobody sees are spelt out:
// they could make a program look like another one. Which ones is the rule of `str.isprintable` in Python, as in
// `errors.make_printable`, but tabs and line ends stay.

const HIDDEN = /(?:(?![ \t\n])[\p{C}\p{Z}])+/gu;
const MOST_MARKS = 1000; // of one text: more would only slow the browser down

export function get(id) {
  return document.getElementById(id);
}

function spell(characters) {
  return Array.from(characters, (character) => {
    const code = character.codePointAt(0);
    if (character === "\r") return "\\r";
    const [letter, width] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return "\\" + letter + code.toString(16).padStart(width, "0");
  }).join("");
}

export function makeVisible(text) {
  return text.replace(HIDDEN, spell);
}

// Fills an element with a text. What was spelt out is marked, so that it differs from a program that spells it itself.
export function fill(element, text) {
  const parts = [];
  let end = 0;
  for (const found of text.matchAll(HIDDEN)) {
    if (parts.length > 2 * MOST_MARKS) break;
    const mark = document.createElement("mark");
    mark.textContent = spell(found[0]);
    parts.push(text.slice(end, found.index), mark);
    end = found.index + found[0].length;
  }
  element.replaceChildren(...parts, makeVisible(text.slice(end)));
  return element;
}

// Makes an element with properties, such as className, attributes, and children, which are elements or texts.
export function make(name, properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(name), rest);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.map((child) => (typeof child === "string" ? fill(make("span"), child) : child)));
  return element;
}

// Tells of hidden characters in a field, which shows them as they are.
export function describeHidden(text) {
  const counts = new Map();
  for (const [run] of text.matchAll(HIDDEN)) {
    for (const character of run) counts.set(character, (counts.get(character) || 0) + 1);
  }
  const shown = [...counts].slice(0, 8).map(([character, count]) => `${spell(character)} (${count})`);
  return shown.length ? `Hidden characters: ${shown.join(", ")}${counts.size > 8 ? ", and others" : ""}` : "";
}

export function countLines(text) {
  return text ? text.split("\n").length : 0;
}

export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

export function formatChance({ mean, interval }) {
  const [percent, low, high] = [mean, ...interval].map((value) => Math.round(100 * value));
  return { short: `${percent} of 100`, interval: `[${low}, ${high}]` };
}

export function formatChange(value) {
  return (value < 0 ? "" : "+") + value.toFixed(3);
}

export async function ask(path, body) {
  const options = body && {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const result = await answer.json().catch(() => null); // a proxy may answer by a page of its own
  if (!answer.ok) throw new Error(result?.error?.message ?? `The server answers ${answer.status}.`);
  if (result === null) throw new Error(`The server answers ${answer.status}, but without a result.`);
  return result;
}
