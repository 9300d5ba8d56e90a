/** One question to a model that is not a chat: runs, can be stopped, fails readably. */
import { isAbort } from '../../lib/api';
import { failureOf } from '../../stores/chats.svelte';

export class Task<T> {
  running = $state(false);
  result = $state.raw<T | null>(null);
  failure = $state.raw<{ message: string; code: string } | null>(null);
  /** How long the last one took. */
  ms = $state.raw<number | null>(null);
  /** Date.now() of the start. */
  sentAt = $state.raw(0);
  #stop: AbortController | null = null;

  async run(work: (signal: AbortSignal) => Promise<T>): Promise<void> {
    this.stop();
    const stop = new AbortController();
    this.#stop = stop;
    this.running = true;
    this.failure = null;
    this.sentAt = Date.now();
    const startedAt = performance.now();
    try {
      const result = await work(stop.signal);
      if (this.#stop !== stop) return;
      this.result = result;
      this.ms = performance.now() - startedAt;
    } catch (error) {
      if (this.#stop === stop && !isAbort(error) && !stop.signal.aborted) this.failure = failureOf(error);
    } finally {
      if (this.#stop === stop) {
        this.running = false;
        this.#stop = null;
      }
    }
  }

  stop(): void {
    this.#stop?.abort();
    this.#stop = null;
    this.running = false;
  }
}
