// Chats from files: this page's own export, `newleaf chat`'s, ChatGPT's conversations.json and Open WebUI's export.

import { answerFields } from "./answer_fields.js";
import { absorb } from "./merge.js";
import { add, newId, newTalk, titleOf } from "./tree.js";

const LARGEST = 200 << 20; // bytes of a file
const ROLES = ["user", "assistant"];

/** Put the chats of these files among `talks` and keep them; those that are there already are made one with them. Returns the last.
 * Raises Error where a file holds none. */
export async function takeIn(files, talks, store) {
  let last = null;
  for (const chat of (await Promise.all(files.map(chatsOf))).flat()) {
    const known = talks.find(({ id }) => id === chat.id);
    last = known ? Object.assign(absorb(known, chat), { changed: Date.now() }) : chat; // later than when it may have been deleted
    if (!known) talks.push(chat);
    if (!(await store.put(last))) await store.put(Object.assign(last, { changed: Date.now() }));
  }
  return last;
}

/** The chats in a file. Raises Error where it holds none. */
async function chatsOf(file) {
  if (file.size > LARGEST) throw new Error("too large");
  const found = JSON.parse(await file.text());
  const chats = (Array.isArray(found) ? found : [found]).flatMap(one).filter((chat) => chat.top.length);
  if (!chats.length) throw new Error("no chats");
  return chats;
}

function one(value) {
  if (!value || typeof value !== "object") return [];
  if (value.talk?.nodes) return own(value.talk);
  if (value.mapping) return fromMapping(value);
  const history = value.chat?.history ?? value.history;
  if (history?.messages) return fromHistory(value, history);
  const messages = value.messages ?? value.chat?.messages;
  return Array.isArray(messages) ? fromMessages(value, messages) : [];
}

/** Checked, since a file may hold anything: every message by its own id, below one that is there. */
function own(talk) {
  const clean = newTalk(text(talk.system), text(talk.model));
  walk(clean, talk.nodes, (node) => ({ ...node, parent: node.parent ?? null }));
  for (const place of [talk, ...Object.values(talk.nodes)]) show(place === talk ? clean : clean.nodes[place?.id], (place?.below ?? place?.top)?.[place?.chosen]);
  if (/^[\w-]{8,64}$/.test(talk.id)) clean.id = talk.id;
  return [Object.assign(clean, { title: text(talk.title) || clean.title, created: time(talk.created), changed: time(talk.changed) })];
}

function show(place, id) {
  const at = (place?.below ?? place?.top)?.indexOf(id) ?? -1;
  if (at >= 0) place.chosen = at;
}

/** Build a chat of messages that name their parents; `read(message)` gives {parent, role, content, …} or null. */
function walk(talk, nodes, read) {
  const below = new Map();
  for (const [id, raw] of Object.entries(nodes)) {
    const node = raw && typeof raw === "object" ? read(raw, id) : null;
    if (!node) continue;
    const list = below.get(node.parent) ?? [];
    list.push([id, node]);
    below.set(node.parent, list);
  }
  const ids = new Map([[null, null]]);
  const waiting = [null];
  while (waiting.length) {
    const parent = waiting.shift();
    for (const [id, node] of below.get(parent) ?? []) {
      if (ids.has(id)) continue;
      ids.set(id, attach(talk, ids.get(parent), id, node));
      waiting.push(id);
    }
  }
}

/** Messages of other roles (tools, hidden system messages) are passed over: what is below them goes below what is above them. */
function attach(talk, parent, id, { role, content, created, ...more }) {
  if (!ROLES.includes(role) || typeof content !== "string" || (!content && role === "user")) return parent;
  const node = add(talk, parent, role, content, role === "assistant" ? answerFields(more) : {});
  if (/^[\w-]{8,64}$/.test(id) && !talk.nodes[id]) rename(talk, node, id);
  node.created = node.changed = time(created);
  return node.id;
}

function rename(talk, node, id) {
  const list = node.parent === null ? talk.top : talk.nodes[node.parent].below;
  list[list.indexOf(node.id)] = id;
  delete talk.nodes[node.id];
  node.id = id;
  talk.nodes[id] = node;
}

/** ChatGPT's: {title, create_time, mapping: {id: {message, parent, children}}}. */
function fromMapping({ title, create_time, update_time, mapping }) {
  const talk = dated(title, create_time, update_time ?? create_time);
  walk(talk, mapping, ({ message, parent }) => ({
    parent: parent ?? null,
    role: message?.author?.role,
    content: (message?.content?.parts ?? []).filter((part) => typeof part === "string").join("\n"),
    created: seconds(message?.create_time),
  }));
  return [talk];
}

/** Open WebUI's: {title, chat: {history: {messages: {id: {parentId, role, content, timestamp}}}}}. */
function fromHistory(value, { messages }) {
  const talk = dated(value.title ?? value.chat?.title, value.created_at, value.updated_at);
  walk(talk, messages, ({ parentId, role, content, timestamp }) => ({ parent: parentId ?? null, role, content, created: seconds(timestamp) }));
  return [talk];
}

/** A list of messages, as `newleaf chat` saves it with /save. */
function fromMessages({ title }, messages) {
  const system = messages.find((message) => message?.role === "system");
  const talk = newTalk(text(system?.content));
  let parent = null;
  for (const message of messages) parent = attach(talk, parent, newId(), { ...message, created: Date.now() });
  talk.title = text(title) || talk.title;
  return [talk];
}

function dated(title, created, changed) {
  const talk = newTalk();
  Object.assign(talk, { title: titleOf(text(title)), created: time(seconds(created)), changed: time(seconds(changed ?? created)) });
  return talk;
}

const text = (value) => (typeof value === "string" ? value : "");
const time = (value) => (Number.isFinite(value) && value > 0 ? Math.min(value, Date.now()) : Date.now());
const seconds = (value) => (Number.isFinite(value) ? value * (value < 1e11 ? 1000 : 1) : undefined);
