import { isObject } from './shape';
import { isEventType, type EventData, type EventType, type ServerEvent } from './types';

/**
 * The event in one SSE message of /api/events: `{"type": T, "data": "<JSON again>"}`. Null for a type this UI does
 * not know (a newer server) and for what is no event at all.
 */
export function parseEvent(text: string): ServerEvent | null {
  try {
    const outer: unknown = JSON.parse(text);
    if (!isObject(outer) || typeof outer.type !== 'string' || !isEventType(outer.type)) return null;
    const data: unknown = typeof outer.data === 'string' ? JSON.parse(outer.data) : outer.data;
    return { type: outer.type, data } as ServerEvent;
  } catch {
    return null;
  }
}

export type Handlers = { [T in EventType]: (data: EventData[T]) => void };

/** Every type has its handler: a new one in types.ts does not compile until somebody says what to do with it. */
export function dispatch(event: ServerEvent, handlers: Handlers): void {
  (handlers[event.type] as (data: unknown) => void)(event.data);
}

const FIRST_MS = 500;
const LONGEST_MS = 15_000;

/** How long to wait before the `attempt`-th try (from 0) to connect again: doubling, with jitter, 15 s at most. */
export function backoffMs(attempt: number, random: () => number = Math.random): number {
  const full = Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  return full * (0.5 + random() / 2);
}
