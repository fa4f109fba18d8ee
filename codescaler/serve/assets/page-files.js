// Files to texts: programs and completions are candidates, a file of groups has problems with their candidates.

const MAX_BYTES = 16 << 20; // of all files: the server takes no more in a request
const MAX_CANDIDATES = 4096; // of a problem, likewise

export async function readFiles(files) {
  const found = { problem: null, candidates: [], groups: [], refused: [] };
  let left = MAX_BYTES;
  for (const file of files) {
    try {
      if (file.size > left) throw new Error("is too much; give at most 16 MB");
      await readFile(file, found);
      left -= file.size;
    } catch (error) {
      found.refused.push(`${file.name} ${error.message}.`);
    }
  }
  return found;
}

async function readFile(file, found) {
  const kind = /\.(py|md|txt|jsonl?)$/i.exec(file.name);
  if (!kind) throw new Error("is left out; give .py, .md, .txt or .jsonl");
  const text = await decode(file);
  if (kind[1].toLowerCase().startsWith("json")) {
    found.groups.push(...readGroups(text));
  } else if (/^problem\.(md|txt)$/i.test(file.name)) {
    found.problem = text.trimEnd();
  } else if (found.candidates.length === MAX_CANDIDATES) {
    throw new Error(`is left out; the server takes at most ${MAX_CANDIDATES} candidates`);
  } else {
    found.candidates.push({ name: file.name, text });
  }
}

async function decode(file) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error("is no text of UTF-8");
  }
}

function readGroups(text) {
  const records = [];
  const lines = isJson(text) ? [text] : text.split("\n");
  lines.forEach((line, index) => {
    if (!line.trim()) return;
    if (!isJson(line)) throw new Error(`has no JSON in line ${index + 1}`);
    records.push(...[JSON.parse(line)].flat().map((record) => readGroup(record, index + 1)));
  });
  if (!records.length) throw new Error("holds no group");
  return records;
}

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

function readGroup(record, line) {
  const isGroup = typeof record?.prompt === "string" && Array.isArray(record.candidates);
  const codes = isGroup ? record.candidates.map((candidate) => candidate?.code ?? null) : [];
  if (!isGroup || !codes.every((code) => code === null || typeof code === "string")) {
    throw new Error(`has no group in line ${line}; give {"prompt": ..., "candidates": [{"code": ...}]}`);
  }
  if (codes.length > MAX_CANDIDATES) {
    throw new Error(`has ${codes.length} candidates in line ${line}; the server takes at most ${MAX_CANDIDATES}`);
  }
  const candidates = codes.map((text, index) => {
    const { name } = record.candidates[index] || {};
    return { name: typeof name === "string" ? name : `Candidate ${index + 1}`, text };
  });
  return {
    name: String(record.task_id ?? `line ${line}`),
    problem: record.prompt,
    system: typeof record.system === "string" ? record.system : null,
    candidates: candidates.filter(({ text }) => text?.trim()),
    numAbsent: codes.filter((code) => !code?.trim()).length,
  };
}
