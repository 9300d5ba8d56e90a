import { ApiError, messageOf } from '../lib/api';
import { backoffMs, dispatch, parseEvent, type Handlers } from '../lib/events';
import { SseParser, readText } from '../lib/sse';
import { activity } from './activity.svelte';
import { api, auth } from './auth.svelte';
import { config } from './config.svelte';
import { inflight } from './inflight.svelte';
import { logs, pause } from './logs.svelte';
import { models } from './models.svelte';

const SILENCE_MS = 40_000; // the server sends a heartbeat every 15 s

/** The one event stream: a snapshot, then what changes; connects again, and begins anew, when it breaks. */
class Stream {
  status = $state<'connecting' | 'live' | 'lost' | 'locked'>('connecting');
  /** Why it is lost. */
  reason = $state('');
  /** When (ms) it is tried again, while lost. */
  retryAt = $state(0);
  /** Request headers that name a client's session, in the order of preference. */
  sessionHeaders = $state.raw<string[]>([]);
  activeProfile = $state<string | null>(null);
  /** Counts up with each snapshot: what was asked for before may be out of date. */
  snapshots = $state(0);
  #skip = new AbortController();

  readonly #handlers: Handlers = {
    modelStatus: (data) => models.applyStatus(data),
    modelProgress: (data) => models.applyProgress(data),
    logData: ({ source, data }) => logs.receive(source, data),
    activity: ({ id }) => activity.finished(id),
    inflight: (data) => inflight.apply(data),
    uiConfig: (data) => (this.sessionHeaders = data.activity.session_id),
    profileChanged: ({ active }) => (this.activeProfile = active),
    configReload: (data) => config.reloaded(data),
    metrics: () => undefined, // the older form of `activity`
  };

  /** Runs as long as the page. */
  async run(): Promise<void> {
    for (let attempt = 0; ; attempt += 1) {
      try {
        await this.#read(() => (attempt = -1));
        this.reason = 'the server closed the connection';
      } catch (error) {
        this.reason = messageOf(error);
        if (error instanceof ApiError && error.status === 401) {
          this.status = 'locked';
          inflight.clear();
          await this.#unlocked();
          attempt = -1;
          continue;
        }
      }
      inflight.clear();
      this.status = 'lost';
      const ms = attempt < 0 ? 250 : backoffMs(attempt);
      this.retryAt = Date.now() + ms;
      this.#skip = new AbortController();
      await pause(ms, this.#skip.signal);
    }
  }

  /** Do not wait any longer. */
  retryNow(): void {
    this.#skip.abort();
  }

  async #read(onLive: () => void): Promise<void> {
    if (this.status !== 'lost') this.status = 'connecting';
    const response = await api.request('/api/events', { headers: { Accept: 'text/event-stream' } });
    logs.expectHistory();
    const parser = new SseParser(({ data }) => {
      const event = parseEvent(data);
      if (event) dispatch(event, this.#handlers);
    });
    this.status = 'live';
    this.reason = '';
    this.snapshots += 1;
    activity.resync();
    if (config.answer) void config.fetch();
    onLive();
    await readText(response.body as ReadableStream<Uint8Array>, (text) => parser.feed(text), SILENCE_MS);
  }

  #unlocked(): Promise<void> {
    return new Promise((resolve) => {
      const stop = $effect.root(() => {
        const before = auth.accepted;
        $effect(() => {
          if (auth.accepted === before) return;
          resolve();
          queueMicrotask(() => stop());
        });
      });
    });
  }
}

export const stream = new Stream();

window.addEventListener('online', () => stream.retryNow());
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) stream.retryNow();
});
