// A chat as a tree of messages: every edit and every other answer is a branch beside the earlier one, and one path is shown.
//
//   talk  {id, title, created, changed, system, top: [ids], chosen: place in top, nodes: {id: node}}
//   node  {id, parent, role, content, below: [ids], chosen: place in below, …what an answer carries}

export function newTalk(system = "") {
  const now = Date.now();
  return { id: crypto.randomUUID?.() ?? randomId(), title: "", created: now, changed: now, system, top: [], chosen: 0, nodes: {} };
}

/** Add a message below `parent` (null: at the top) and show it. */
export function add(talk, parent, role, content, more = {}) {
  const id = String(Object.keys(talk.nodes).length + 1); // messages are never taken out
  const node = { id, parent, role, content, below: [], chosen: 0, created: Date.now(), ...more };
  talk.nodes[id] = node;
  const place = parent === null ? talk : talk.nodes[parent];
  const list = parent === null ? talk.top : place.below;
  place.chosen = list.push(id) - 1;
  talk.changed = Date.now();
  if (!talk.title && role === "user") talk.title = titleOf(content);
  return node;
}

/** The messages that are shown, first to last. */
export function path(talk) {
  const shown = [];
  let id = talk.top[talk.chosen];
  while (id !== undefined) {
    const node = talk.nodes[id];
    shown.push(node);
    id = node.below[node.chosen];
  }
  return shown;
}

/** The messages that lead to a node, itself included. */
export function upTo(talk, id) {
  const found = [];
  for (let at = id; at !== null; at = talk.nodes[at].parent) found.unshift(talk.nodes[at]);
  return found;
}

/** A message's versions: their ids, and which of them this one is. */
export function versions(talk, node) {
  const all = node.parent === null ? talk.top : talk.nodes[node.parent].below;
  return { all, place: all.indexOf(node.id) };
}

/** Show another version of a message; what was shown below it is shown again. */
export function choose(talk, node, place) {
  const { all } = versions(talk, node);
  const holder = node.parent === null ? talk : talk.nodes[node.parent];
  holder.chosen = Math.max(0, Math.min(all.length - 1, place));
}

function titleOf(content) {
  const line = content.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 58)}…` : line;
}

function randomId() {
  // A page served over plain HTTP to another machine has no randomUUID.
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
