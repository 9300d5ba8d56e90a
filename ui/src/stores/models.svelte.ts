import { idPath, messageOf } from '../lib/api';
import { isRunning, withProgress, withStatus, type ModelView } from '../lib/models';
import type { ModelProgress, ModelStatus, ModelsAnswer } from '../lib/types';
import { api } from './auth.svelte';
import { confirm } from './confirm.svelte';
import { inflight } from './inflight.svelte';
import { soon } from './soon';
import { toasts } from './toasts.svelte';

/** Every model: states from the events as they happen, the rest from GET /api/models. */
class Models {
  list = $state.raw<ModelView[]>([]);
  /** Other servers' models that this one offers; they have no state here. */
  peers = $state.raw<ModelStatus[]>([]);
  /** Whether the list is the server's (and may truly be empty). */
  known = $state(false);
  error = $state('');
  running = $derived(this.list.filter((model) => isRunning(model.state)));
  /** Ids with a load or unload of ours on its way. */
  busy = $state.raw<ReadonlySet<string>>(new Set());
  #fetching = false;
  #again = false;
  refresh = soon(() => void this.fetch(), 150);

  get(id: string): ModelView | undefined {
    return this.list.find((model) => model.id === id) ?? this.list.find((model) => model.aliases.includes(id));
  }

  applyStatus(status: ModelStatus[]): void {
    this.list = withStatus(this.list, status, Date.now());
    this.peers = status.filter((entry) => entry.peerID);
    this.known = true;
    this.refresh();
  }

  applyProgress(progress: ModelProgress[]): void {
    this.list = withProgress(this.list, progress, Date.now());
  }

  async fetch(): Promise<void> {
    if (this.#fetching) {
      this.#again = true;
      return;
    }
    this.#fetching = true;
    try {
      const { models } = await api.json<ModelsAnswer>('/api/models');
      const asOf = Date.now();
      this.list = models.map((model) => ({ ...model, asOf }));
      this.known = true;
      this.error = '';
    } catch (error) {
      this.error = messageOf(error);
    } finally {
      this.#fetching = false;
      if (this.#again) {
        this.#again = false;
        this.refresh();
      }
    }
  }

  /** Start loading; how it goes, the events tell. */
  load(id: string): Promise<void> {
    return this.#act([id], `Could not load ${id}`, async () => {
      await api.request(`/api/models/load/${idPath(id)}`, { method: 'POST', query: { wait: 0 } });
    });
  }

  /** Asks first if requests are under way at it, for they end with it. */
  async unload(id: string): Promise<void> {
    if (!(await this.#agreed([id], `Unload ${id}?`))) return;
    await this.#act([id], `Could not unload ${id}`, async () => {
      await api.request(`/api/models/unload/${idPath(id)}`, { method: 'POST' });
    });
  }

  async unloadAll(): Promise<void> {
    const ids = this.running.map((model) => model.id);
    if (!(await this.#agreed(ids, 'Unload all models?'))) return;
    await this.#act(ids, 'Could not unload all models', async () => {
      await api.request('/api/models/unload', { method: 'POST' });
    });
  }

  async #agreed(ids: string[], title: string): Promise<boolean> {
    let count = 0;
    for (const id of ids) {
      const load = inflight.byModel.get(id);
      count += (load?.running ?? 0) + (load?.waiting ?? 0);
    }
    if (!count) return true;
    const text = count === 1 ? 'A request is under way; it will end with an error.' : `${count} requests are under way; they will end with an error.`;
    return confirm.ask({ title, text, action: 'Unload' });
  }

  async #act(ids: string[], failure: string, run: () => Promise<void>): Promise<void> {
    this.busy = new Set([...this.busy, ...ids]);
    try {
      await run();
    } catch (error) {
      toasts.error(`${failure}: ${messageOf(error)}`);
    } finally {
      this.busy = new Set([...this.busy].filter((id) => !ids.includes(id)));
      this.refresh();
    }
  }
}

export const models = new Models();
