/** Sampling settings as a person types them; an empty one is not sent, and the model's own default holds. */
import { isObject } from '../shape';

export const NUMBERS = [
  { key: 'temperature', label: 'Temperature', min: 0, max: 5, whole: false, hint: '0 always takes the likeliest token' },
  { key: 'top_p', label: 'Top p', min: 0, max: 1, whole: false, hint: 'Only the likeliest tokens that together reach this probability' },
  { key: 'top_k', label: 'Top k', min: 0, max: 100_000, whole: true, hint: 'Only the k likeliest tokens; 0 is all' },
  { key: 'min_p', label: 'Min p', min: 0, max: 1, whole: false, hint: 'Only tokens at least this likely, relative to the likeliest' },
  { key: 'max_tokens', label: 'Max tokens', min: 1, max: 10_000_000, whole: true, hint: 'The answer ends here at the latest' },
  { key: 'seed', label: 'Seed', min: -1, max: 4_294_967_295, whole: true, hint: 'The same seed gives the same answer' },
] as const;
export type NumberKey = (typeof NUMBERS)[number]['key'];

/** All as typed. `stop`: one per line. `extra`: a JSON object whose keys are sent as well. */
export type Settings = Record<NumberKey | 'stop' | 'extra', string>;

export const NO_SETTINGS: Settings = { temperature: '', top_p: '', top_k: '', min_p: '', max_tokens: '', seed: '', stop: '', extra: '' };

/** Keys that the conversation itself decides. */
const OURS = ['model', 'messages', 'stream'];

export function isSettings(value: unknown): value is Settings {
  return isObject(value) && Object.keys(NO_SETTINGS).every((key) => typeof value[key] === 'string');
}

/** What is wrong, by setting; nothing if all is well. */
export function problemsIn(settings: Settings): Partial<Record<keyof Settings, string>> {
  const problems: Partial<Record<keyof Settings, string>> = {};
  for (const { key, min, max, whole } of NUMBERS) {
    const text = settings[key].trim();
    if (!text) continue;
    const value = Number(text);
    if (!Number.isFinite(value) || (whole && !Number.isInteger(value)) || value < min || value > max) {
      problems[key] = `a ${whole ? 'whole ' : ''}number from ${min} to ${max}`;
    }
  }
  if (settings.extra.trim()) {
    try {
      const extra: unknown = JSON.parse(settings.extra);
      const taken = isObject(extra) ? OURS.filter((key) => key in extra) : [];
      if (!isObject(extra)) problems.extra = 'a JSON object, like {"repeat_penalty": 1.1}';
      else if (taken.length) problems.extra = `${taken.join(', ')} cannot be set here`;
    } catch (error) {
      problems.extra = `not JSON: ${error instanceof Error ? error.message : String(error)}`;
    }
  }
  return problems;
}

/** The keys to send. What `problemsIn` finds fault with is left out. */
export function bodyOf(settings: Settings): Record<string, unknown> {
  const problems = problemsIn(settings);
  const body: Record<string, unknown> = {};
  for (const { key } of NUMBERS) {
    const text = settings[key].trim();
    if (text && !problems[key]) body[key] = Number(text);
  }
  // A stop may be a line's end: it is typed as \n.
  const stop = settings.stop
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.replace(/\\([nt\\])/g, (_, c: string) => ({ n: '\n', t: '\t', '\\': '\\' })[c] as string));
  if (stop.length) body.stop = stop;
  if (settings.extra.trim() && !problems.extra) Object.assign(body, JSON.parse(settings.extra));
  return body;
}

/** How many settings are in force. */
export function countSet(settings: Settings, system: string): number {
  return Object.values(settings).filter((text) => text.trim()).length + (system.trim() ? 1 : 0);
}
