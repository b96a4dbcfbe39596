// Chats in the browser's own database: one record each.

const NAME = "newleaf";
const TALKS = "talks";

export class Store {
  /** `kept` is false where the browser refuses a database: then everything lives as long as the page. */
  static async open() {
    const store = new Store();
    store.memory = new Map();
    store.database = await opened().catch(() => null);
    store.kept = store.database !== null;
    return store;
  }

  /** All chats, the last changed first. */
  async all() {
    const found = this.kept ? await this.ask("readonly", (talks) => talks.getAll()) : [...this.memory.values()];
    return found.sort((a, b) => b.changed - a.changed);
  }

  async put(talk) {
    const copy = structuredClone(talk);
    if (this.kept) await this.ask("readwrite", (talks) => talks.put(copy));
    else this.memory.set(talk.id, copy);
  }

  async remove(id) {
    if (this.kept) await this.ask("readwrite", (talks) => talks.delete(id));
    else this.memory.delete(id);
  }

  ask(mode, what) {
    return new Promise((resolve, reject) => {
      const transaction = this.database.transaction(TALKS, mode);
      const request = what(transaction.objectStore(TALKS));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  }
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TALKS, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
