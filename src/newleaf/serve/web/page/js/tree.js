// A chat as a tree of messages: every edit and every other answer is a branch beside the earlier one, and one path is shown.
//
//   talk  {id, title, created, changed, headed, system, model, top: [ids], chosen: place in top, nodes: {id: node}}
//   node  {id, parent, role, content, created, changed, below: [ids], chosen: place in below, …what an answer carries}
//
// `headed` is when title, system prompt or model were changed; `model` "" is the server's first.

export function newTalk(system = "", model = "") {
  const now = Date.now();
  return { id: newId(), title: "", created: now, changed: now, headed: 0, system, model, top: [], chosen: 0, nodes: {} };
}

/** Change what stands in a chat's head. */
export function head(talk, values) {
  Object.assign(talk, values, { headed: Date.now(), changed: Date.now() });
}

/** Note that a message has changed. */
export function touch(talk, node) {
  node.changed = talk.changed = Date.now();
}

/** Add a message below `parent` (null: at the top) and show it. */
export function add(talk, parent, role, content, more = {}) {
  const id = newId(); // random, so that two windows make no two messages of one id
  const now = Date.now();
  const node = { id, parent, role, content, below: [], chosen: 0, created: now, changed: now, ...more };
  talk.nodes[id] = node;
  const place = parent === null ? talk : talk.nodes[parent];
  const list = parent === null ? talk.top : place.below;
  place.chosen = list.push(id) - 1;
  talk.changed = now;
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

export function titleOf(content) {
  const line = content.trim().split("\n")[0].replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 58)}…` : line;
}

export function newId() {
  // A page served over plain HTTP to another machine has no randomUUID.
  return crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
