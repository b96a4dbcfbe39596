// Chats in the browser's own database, one record each. Every window reads and writes them together: a record that is put is made one
// with what is there, and the other windows hear of it.

import { absorb, isAlive } from "./merge.js";

const NAME = "newleaf";
const TALKS = "talks";
const TOMBSTONE_DAYS = 90; // how long it is remembered that a chat was deleted

export class Store extends EventTarget {
  /** `kept` is false where the browser refuses a database: then everything lives as long as the page. "change" is dispatched with the id
   * of a chat that another window changed. */
  static async open() {
    const store = new Store();
    store.memory = new Map();
    store.database = await opened().catch(() => null);
    store.kept = store.database !== null;
    if (store.kept && globalThis.BroadcastChannel) {
      store.channel = new BroadcastChannel(NAME);
      store.channel.onmessage = ({ data }) => store.dispatchEvent(new CustomEvent("change", { detail: String(data) }));
    }
    return store;
  }

  /** All chats, the last changed first. */
  async all() {
    const found = this.kept ? await this.within("readonly", (talks, done) => read(talks.getAll(), done)) : [...this.memory.values()];
    const old = found.filter((record) => !isAlive(record) && Date.now() - record.deleted > TOMBSTONE_DAYS * 86_400_000);
    for (const { id } of old) await this.within("readwrite", (talks) => talks.delete(id));
    return found.filter(isAlive).sort((a, b) => b.changed - a.changed);
  }

  /** The chat as it is kept now, or null. */
  async get(id) {
    const found = this.kept ? await this.within("readonly", (talks, done) => read(talks.get(id), done)) : this.memory.get(id);
    return isAlive(found) ? found : null;
  }

  /** Keep a chat, together with what another window has kept of it meanwhile; false where it was deleted after its last change. */
  async put(talk) {
    const mine = structuredClone(talk);
    if (!this.kept) {
      this.memory.set(talk.id, mine);
      return true;
    }
    const alive = await this.within("readwrite", (talks, done) =>
      read(talks.get(talk.id), (theirs) => {
        const gone = theirs?.deleted >= mine.changed;
        if (!gone) talks.put(isAlive(theirs) ? absorb(mine, theirs) : mine);
        done(!gone);
      }),
    );
    this.channel?.postMessage(talk.id);
    return alive;
  }

  async remove(id) {
    if (this.kept) await this.within("readwrite", (talks) => talks.put({ id, deleted: Date.now(), changed: 0 }));
    else this.memory.delete(id);
    this.channel?.postMessage(id);
  }

  /** A transaction; its result is what `done` was given. */
  within(mode, what) {
    return new Promise((resolve, reject) => {
      let result;
      const transaction = this.database.transaction(TALKS, mode);
      transaction.oncomplete = () => resolve(result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
      what(transaction.objectStore(TALKS), (value) => (result = value));
    });
  }
}

function read(request, done) {
  request.onsuccess = () => done(request.result);
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TALKS, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
