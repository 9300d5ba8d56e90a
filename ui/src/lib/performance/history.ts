/** What /api/performance told so far: an hour of moments, put together from answers that each bring the news; pure. */
import type { GpuSample, Mark, ModelSample, PerformanceAnswer, SystemSample } from '../types';

export const KEPT_MS = 3_600_000;

/** All that was measured at one time. */
export interface Moment {
  /** ms since the epoch, by the server's clock. */
  at: number;
  /** null: it could not be had in time. */
  system: SystemSample | null;
  gpus: readonly GpuSample[];
  models: readonly ModelSample[];
}

export interface MarkAt {
  at: number;
  model: string;
  event: Mark['event'];
}

export interface History {
  everyMs: number;
  /** In order of time, the last hour of them. */
  moments: readonly Moment[];
  marks: readonly MarkAt[];
  /** The newest timestamp of all, as the server wrote it: what to ask `after` next. Empty if there is nothing yet. */
  last: string;
}

/** What is known once this answer has come; `before` is null if it was asked for all there is. */
export function merge(before: History | null, answer: PerformanceAnswer): History {
  let last = before?.last ?? '';
  let lastAt = before && last ? Date.parse(last) : -Infinity;
  const known = lastAt; // what came before is not told twice
  const see = (timestamp: string, at: number) => {
    if (at > lastAt) [last, lastAt] = [timestamp, at];
  };

  const news = new Map<string, { at: number; system: SystemSample | null; gpus: GpuSample[]; models: ModelSample[] }>();
  const moment = (timestamp: string) => {
    let found = news.get(timestamp);
    if (!found) {
      found = { at: Date.parse(timestamp), system: null, gpus: [], models: [] };
      news.set(timestamp, found);
      see(timestamp, found.at);
    }
    return found;
  };
  for (const sample of answer.sys_stats) moment(sample.timestamp).system = sample;
  for (const sample of answer.gpu_stats) moment(sample.timestamp).gpus.push(sample);
  for (const sample of answer.models) moment(sample.timestamp).models.push(sample);
  const marks = answer.marks.map(({ timestamp, model, event }) => {
    const at = Date.parse(timestamp);
    see(timestamp, at);
    return { at, model, event };
  });

  const first = lastAt - KEPT_MS;
  const add = <T extends { at: number }>(old: readonly T[], fresh: T[]): T[] =>
    [...old, ...fresh.filter(({ at }) => at > known).sort((a, b) => a.at - b.at)].filter(({ at }) => at >= first);
  return {
    everyMs: answer.every_s * 1000,
    moments: add(before?.moments ?? [], [...news.values()]),
    marks: add(before?.marks ?? [], marks),
    last,
  };
}

/** Whether the answer brought anything. */
export function hasNews(answer: PerformanceAnswer): boolean {
  return [answer.sys_stats, answer.gpu_stats, answer.models, answer.marks].some((list) => list.length > 0);
}

/** A longer step between two moments is a gap: nobody measured, or the server was not there. */
export function gapMs({ everyMs, moments }: History): number {
  const steps = moments.slice(1).map(({ at }, i) => at - (moments[i] as Moment).at);
  steps.sort((a, b) => a - b);
  // The period may just have been made shorter: what was measured before is not all gaps.
  return 2.5 * Math.max(everyMs, steps[steps.length >> 1] ?? 0);
}

export const RANGES = [
  { id: '5m', label: '5 min', ms: 300_000 },
  { id: '15m', label: '15 min', ms: 900_000 },
  { id: '1h', label: '1 h', ms: KEPT_MS },
] as const;
export type Range = (typeof RANGES)[number];

/** The range that was asked for, or else the shortest that shows all there is. */
export function rangeOf(asked: string | null, history: History | null): Range {
  const [shortest, , longest] = RANGES;
  const first = history?.moments[0]?.at;
  const span = history && first !== undefined ? Date.parse(history.last) - first : 0;
  return RANGES.find(({ id }) => id === asked) ?? (first === undefined ? shortest : (RANGES.find(({ ms }) => span <= ms) ?? longest));
}

/** The moments from `from` on, and the one before, so that lines come in from the edge. */
export function since(moments: readonly Moment[], from: number): readonly Moment[] {
  const first = moments.findIndex(({ at }) => at >= from);
  return first < 0 ? moments.slice(-1) : moments.slice(Math.max(0, first - 1));
}
