/** What is known of models, put together from GET /api/models and the events; pure. */
import type { Capability, Model, ModelProgress, ModelState, ModelStatus } from './types';

/** A model, and when (ms) its running times were right. */
export interface ModelView extends Model {
  asOf: number;
}

const UNKNOWN: Omit<Model, 'id' | 'name' | 'description' | 'aliases' | 'state' | 'unlisted'> = {
  ttl_s: 0,
  ttl_left_s: null,
  in_flight: 0,
  queued: 0,
  pid: null,
  cmd: '',
  proxy: '',
  ready_since: null,
  memory: { rss_bytes: null, gpu_bytes: null },
  load: { elapsed_s: null, typical_s: null },
  waiting_for: [],
  last_error: null,
  group: '',
};

/** `status` lists every model there is; peers' are left out. */
export function withStatus(before: readonly ModelView[], status: readonly ModelStatus[], now: number): ModelView[] {
  const known = new Map(before.map((model) => [model.id, model]));
  return status
    .filter((entry) => !entry.peerID)
    .map((entry) => {
      const old = known.get(entry.id);
      const state = (entry.state || 'stopped') as ModelState;
      const model: ModelView = {
        ...(old ?? { ...UNKNOWN, asOf: now }),
        id: entry.id,
        name: entry.name,
        description: entry.description,
        aliases: entry.aliases ?? [],
        unlisted: entry.unlisted,
        removed: entry.removed,
        capabilities: entry.capabilities,
        context_length: entry.context_length,
        state,
      };
      return old && old.state !== state ? restarted(model, state, now) : model;
    })
    .sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
}

/** The old state's running times mean nothing in the new one. */
function restarted(model: ModelView, state: ModelState, now: number): ModelView {
  return {
    ...model,
    asOf: now,
    ttl_left_s: null,
    waiting_for: [],
    load: { elapsed_s: state === 'starting' ? 0 : null, typical_s: model.load.typical_s },
    ...(state === 'stopped' ? { pid: null, ready_since: null, memory: UNKNOWN.memory } : {}),
    ...(state === 'ready' ? { last_error: null } : {}),
  };
}

/** `progress` lists every model that has a process or is waited for. */
export function withProgress(before: readonly ModelView[], progress: readonly ModelProgress[], now: number): ModelView[] {
  const news = new Map(progress.map((entry) => [entry.id, entry]));
  return before.map((model) => {
    const entry = news.get(model.id);
    if (!entry) {
      const idle = !model.queued && !model.waiting_for.length;
      return idle ? model : { ...model, queued: 0, waiting_for: [] };
    }
    const same = entry.state === model.state ? model : restarted({ ...model, state: entry.state }, entry.state, now);
    return {
      ...same,
      asOf: now,
      queued: entry.queued,
      ttl_left_s: entry.ttl_left_s ?? null,
      waiting_for: entry.waiting_for ?? [],
      load: { elapsed_s: entry.elapsed_s ?? null, typical_s: entry.typical_s ?? model.load.typical_s },
    };
  });
}

/** Seconds it has been loading, at `now`. */
export function loadElapsed(model: ModelView, now: number): number | null {
  const { elapsed_s } = model.load;
  return elapsed_s === null ? null : elapsed_s + Math.max(0, now - model.asOf) / 1000;
}

/** Seconds until it is unloaded for being idle, at `now`; null if it is busy or stays. */
export function ttlLeft(model: ModelView, now: number, busy: boolean): number | null {
  if (busy || model.ttl_left_s === null || model.state !== 'ready') return null;
  return Math.max(0, model.ttl_left_s - Math.max(0, now - model.asOf) / 1000);
}

export function isRunning(state: ModelState): boolean {
  return state === 'starting' || state === 'ready' || state === 'stopping';
}

export const STATE_LABEL: Record<ModelState, string> = {
  stopped: 'Not loaded',
  starting: 'Loading',
  ready: 'Ready',
  stopping: 'Unloading',
  shutdown: 'Shut down',
};

export const CAPABILITY_LABEL: Record<Capability, string> = {
  vision: 'vision',
  audio_transcriptions: 'transcription',
  audio_speech: 'speech',
  image_generation: 'images',
  image_to_image: 'image to image',
  function_calling: 'tools',
  reranker: 'rerank',
};

export function capabilityList(model: Pick<Model, 'capabilities'>): string[] {
  const names = Object.keys(CAPABILITY_LABEL) as Capability[];
  return names.filter((name) => model.capabilities?.[name]).map((name) => CAPABILITY_LABEL[name]);
}

/** Whether every word of the search is in the model's names or description. */
export function matchesSearch(model: Pick<Model, 'id' | 'name' | 'description' | 'aliases'>, search: string): boolean {
  const text = [model.id, model.name, model.description, ...model.aliases].join(' ').toLowerCase();
  return search.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}
