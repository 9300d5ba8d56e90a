import { Api, ApiError } from '../lib/api';

const KEY = 'llamaswap.key'; // sessionStorage: gone with the tab

class Auth {
  key = $state('');
  /** The server wants a key, and the one that is known (if any) will not do. */
  needed = $state(false);
  /** Counts up with each key that was accepted; what waits for one reads it. */
  accepted = $state(0);

  constructor() {
    try {
      this.key = sessionStorage.getItem(KEY) ?? '';
    } catch {
      // No storage: it will be asked for again.
    }
  }

  /** Try a key; whether the server takes it. Throws ApiError if the server cannot be asked. */
  async enter(key: string): Promise<boolean> {
    const trial = new Api({ key: () => key, onUnauthorized: () => undefined });
    try {
      await trial.request('/api/version');
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return false;
      throw error;
    }
    this.key = key;
    this.needed = false;
    this.accepted += 1;
    try {
      sessionStorage.setItem(KEY, key);
    } catch {
      // It lasts as long as the page.
    }
    return true;
  }
}

export const auth = new Auth();

/** Every call of the UI goes through this: it sends the key and has it asked for when one is wanted. */
export const api = new Api({
  key: () => auth.key,
  onUnauthorized: () => (auth.needed = true),
});
