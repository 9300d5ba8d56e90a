import type { InflightEvent, InflightRequest } from '../lib/types';
import { api } from './auth.svelte';
import { soon } from './soon';

export interface ModelLoad {
  /** Waiting for a model: queued or loading. */
  waiting: number;
  /** At the model: waiting for its first byte, or streaming. */
  running: number;
}

/** A request as last heard of; `heardAt` (ms) lets its elapsed time run on. */
export type LiveRequest = InflightRequest & { heardAt: number };

/** The requests under way, oldest first. */
class Inflight {
  list = $state.raw<LiveRequest[]>([]);
  byModel = $derived.by(() => {
    const counts = new Map<string, ModelLoad>();
    for (const { model, state } of this.list) {
      const count = counts.get(model) ?? { waiting: 0, running: 0 };
      count[state === 'queued' || state === 'loading' ? 'waiting' : 'running'] += 1;
      counts.set(model, count);
    }
    return counts;
  });
  #known = new Map<number, LiveRequest>();
  #show = soon(() => (this.list = [...this.#known.values()].sort((a, b) => a.id - b.id)));

  apply(event: InflightEvent): void {
    const heardAt = Date.now();
    switch (event.operation) {
      case 'snapshot':
        this.#known = new Map((event.requests ?? []).map((request) => [request.id, { ...request, heardAt }]));
        break;
      case 'upsert':
        this.#known.set(event.request.id, { ...event.request, heardAt });
        break;
      case 'remove':
        this.#known.delete(event.id);
        break;
      default:
        event satisfies never;
    }
    this.#show();
  }

  /** Nothing is known any more: the connection is lost. */
  clear(): void {
    this.#known.clear();
    this.#show();
  }

  /** Throws ApiError (404 if it is over already). */
  async cancel(id: number): Promise<void> {
    await api.request(`/api/inflight/${id}/cancel`, { method: 'POST' });
  }
}

export const inflight = new Inflight();

/** Milliseconds a request has been under way at `now`. */
export function elapsedMs(request: LiveRequest, now: number): number {
  return request.elapsed_ms + Math.max(0, now - request.heardAt);
}
