import { messageOf } from '../lib/api';
import type { ConfigAnswer, Reload } from '../lib/types';
import { api } from './auth.svelte';

/** The configuration as the server last read it, and what its last reload did. */
class ConfigStore {
  answer = $state.raw<ConfigAnswer | null>(null);
  lastReload = $state.raw<Reload | null>(null);
  error = $state('');
  #asked = 0;

  /** The server reloaded, or tried to. */
  reloaded(reload: Reload): void {
    this.lastReload = reload;
    if (this.answer || this.error) void this.fetch();
  }

  async fetch(): Promise<void> {
    const asked = (this.#asked += 1);
    try {
      const answer = await api.json<ConfigAnswer>('/api/config');
      if (asked !== this.#asked) return;
      this.answer = answer;
      this.lastReload = answer.last_reload;
      this.error = '';
    } catch (error) {
      if (asked === this.#asked) this.error = messageOf(error);
    }
  }

  /** Read the file again. Throws ApiError if it is refused; what was wrong is then in `answer`. */
  async reload(): Promise<Reload> {
    try {
      return await api.json<Reload>('/api/config/reload', { method: 'POST' });
    } finally {
      await this.fetch();
    }
  }
}

export const config = new ConfigStore();
