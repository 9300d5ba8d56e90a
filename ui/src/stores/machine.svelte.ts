import { untrack } from 'svelte';
import { ApiError, isAbort, messageOf } from '../lib/api';
import { hasNews, merge, type History } from '../lib/performance/history';
import type { Hardware, PerformanceAnswer } from '../lib/types';
import { api } from './auth.svelte';
import { pause } from './logs.svelte';
import { stream } from './stream.svelte';

const LONGEST_MS = 60_000; // a sampler that looks once an hour is no reason to show a model's crash an hour late
const AGAIN_MS = 1_000;

/** What the machine did in the last hour, asked for only while somebody looks. */
class Machine {
  history = $state.raw<History | null>(null);
  hardware = $state.raw<Hardware | null>(null);
  /** Switched off in the configuration. */
  disabled = $state(false);
  error = $state('');
  #wake = new AbortController();
  /** When (ms) the server began to have no news; 0 while it has some. */
  #quietSince = 0;
  #hardwareAsked = false;

  /** Follow it, until the returned function is called. */
  watch(): () => void {
    const stop = new AbortController();
    const wake = () => this.wake();
    document.addEventListener('visibilitychange', wake);
    stop.signal.addEventListener('abort', () => {
      document.removeEventListener('visibilitychange', wake);
      this.wake();
    });
    this.#hardwareAsked = false;
    void untrack(() => this.#run(stop.signal)); // whoever calls this in an effect does not depend on what it reads
    return () => stop.abort();
  }

  /** Ask now: the server, its settings, or the tab came back. */
  wake(): void {
    this.#wake.abort();
  }

  async #run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const idle = document.hidden || stream.status === 'lost' || stream.status === 'locked';
      const ms = idle ? Infinity : await this.#ask(signal);
      if (signal.aborted) return;
      const wake = this.#wake.signal;
      if (!wake.aborted) await (ms === Infinity ? woken(wake) : pause(ms, wake));
    }
  }

  /** How long (ms) to wait before the next time. */
  async #ask(signal: AbortSignal): Promise<number> {
    try {
      const before = this.#current();
      const answer = await api.json<PerformanceAnswer>('/api/performance', { query: { after: before?.last || null }, signal });
      if (signal.aborted) return 0;
      const news = hasNews(answer);
      this.#quietSince = news ? 0 : this.#quietSince || Date.now();
      if (news || !before || before.everyMs !== answer.every_s * 1000) this.history = merge(before, answer);
      this.disabled = false;
      this.error = '';
      if (!this.#hardwareAsked) void this.#askHardware(signal);
      const every = answer.every_s * 1000;
      // Without news the next sample is about due: so the questions fall into step with the samples.
      return Math.min(LONGEST_MS, news ? every : Math.max(AGAIN_MS, every / 5));
    } catch (error) {
      if (isAbort(error)) return 0;
      this.disabled = error instanceof ApiError && error.status === 503 && /"enabled":\s*false/.test(error.message);
      this.error = this.disabled ? '' : messageOf(error);
      if (!this.disabled) return this.history?.everyMs ?? 5_000;
      this.history = this.hardware = null;
      return Infinity; // until a reload
    }
  }

  /** What is known, unless the server has had nothing newer for so long that its clock must have been set back. */
  #current(): History | null {
    const { history } = this;
    if (!history || !this.#quietSince || Date.now() - this.#quietSince < Math.max(60_000, 4 * history.everyMs)) return history;
    this.#quietSince = 0;
    return null;
  }

  async #askHardware(signal: AbortSignal): Promise<void> {
    this.#hardwareAsked = true;
    try {
      this.hardware = await api.json<Hardware>('/api/hardware', { signal });
    } catch {
      this.#hardwareAsked = false; // Not known yet: again with the next samples, which do not need it.
    }
  }
}

function woken(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}

export const machine = new Machine();
