import { LogBuffer } from '../lib/logbuffer';
import { idPath, isAbort, ApiError } from '../lib/api';
import { backoffMs } from '../lib/events';
import { readText } from '../lib/sse';
import type { LogSource } from '../lib/types';
import { api, auth } from './auth.svelte';
import { soon } from './soon';

const DRAW_MS = 160; // reading speed, not film: drawing lines that run through is what costs

/** A log with a counter that says, reactively, that it has changed; the lines themselves are plain data. */
export class Log {
  readonly buffer = new LogBuffer();
  version = $state(0);
  changed = soon(() => (this.version += 1), DRAW_MS);

  append(text: string): void {
    this.buffer.append(text);
    this.changed();
  }

  replay(history: string): void {
    this.buffer.replay(history);
    this.changed();
  }

  clear(): void {
    this.buffer.clear();
    this.changed();
  }
}

/** The two logs that the event stream carries. */
class Logs {
  readonly proxy = new Log();
  readonly upstream = new Log();
  #replayed = new Set<LogSource>();

  /** A new connection: the first data of each source will be its history. */
  expectHistory(): void {
    this.#replayed.clear();
  }

  receive(source: LogSource, data: string): void {
    const log = this[source];
    if (this.#replayed.has(source)) log.append(data);
    else log.replay(data);
    this.#replayed.add(source);
  }
}

export const logs = new Logs();

/** One model's own log, from /logs/stream/<model>, while `follow` runs; connects again when it breaks. */
export class ModelLog extends Log {
  status = $state<'connecting' | 'live' | 'retrying'>('connecting');

  constructor(readonly model: string) {
    super();
  }

  /** Read until `signal` fires. Never throws. */
  async follow(signal: AbortSignal): Promise<void> {
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        const response = await api.request(`/logs/stream/${idPath(this.model)}`, { signal, headers: { Accept: '*/*' } });
        this.status = 'live';
        let first = true;
        await readText(response.body as ReadableStream<Uint8Array>, (text) => {
          if (first) this.replay(text);
          else this.append(text);
          first = false;
          attempt = 0;
        });
      } catch (error) {
        if (signal.aborted || isAbort(error)) return;
        if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 401) {
          this.buffer.note(error.message);
          this.changed();
          return;
        }
      }
      this.status = 'retrying';
      await pause(auth.needed ? 1000 : backoffMs(attempt), signal);
    }
  }
}

/** Wait; ends early, without an error, when `signal` fires. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
  });
}
