/** Conversations in IndexedDB: summaries and whole ones in two stores, so that the list is read without the pictures. */
import type { Conversation } from '../lib/playground/conversation';
import type { Backend, Summary } from '../lib/playground/library';

const NAME = 'llamaswap';
const SUMMARIES = 'conversation-summaries';
const WHOLE = 'conversations';

/** Throws if the browser keeps nothing here (a private window, a setting). */
export async function openBackend(): Promise<Backend> {
  const opening = indexedDB.open(NAME, 1);
  opening.onupgradeneeded = () => {
    opening.result.createObjectStore(SUMMARIES, { keyPath: 'id' });
    opening.result.createObjectStore(WHOLE, { keyPath: 'id' });
  };
  const database = await settled(opening);
  // A newer version of the page in another tab may change the stores.
  database.onversionchange = () => database.close();
  return new IdbBackend(database);
}

class IdbBackend implements Backend {
  constructor(private readonly database: IDBDatabase) {}

  summaries(): Promise<Summary[]> {
    return settled(this.database.transaction(SUMMARIES).objectStore(SUMMARIES).getAll() as IDBRequest<Summary[]>);
  }

  get(id: string): Promise<Conversation | undefined> {
    return settled(this.database.transaction(WHOLE).objectStore(WHOLE).get(id) as IDBRequest<Conversation | undefined>);
  }

  put(conversation: Conversation, summary: Summary): Promise<void> {
    return this.#write((whole, summaries) => {
      whole.put(conversation);
      summaries.put(summary);
    });
  }

  remove(ids: readonly string[]): Promise<void> {
    return this.#write((whole, summaries) => {
      for (const id of ids) {
        whole.delete(id);
        summaries.delete(id);
      }
    });
  }

  #write(change: (whole: IDBObjectStore, summaries: IDBObjectStore) => void): Promise<void> {
    const transaction = this.database.transaction([WHOLE, SUMMARIES], 'readwrite');
    change(transaction.objectStore(WHOLE), transaction.objectStore(SUMMARIES));
    return new Promise((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error('the browser refused to store it'));
    });
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error('the browser does not let this page store anything'));
  });
}
