import { isAbort, messageOf } from '../../lib/api';
import { isNewestFirst, pageQuery, rowsQuery, type Filter } from '../../lib/activity/filter';
import type { ActivityAnswer, ActivityRow } from '../../lib/types';
import { activity } from '../../stores/activity.svelte';
import { api } from '../../stores/auth.svelte';
import { soon } from '../../stores/soon';

const PATH = '/api/metrics/activity';
const NEWS_MS = 1000; // between two looks at what is new

/**
 * The finished requests that the page shows. They stand still unless `live` says that they may move: what is newer is only
 * counted, and pages are those of the moment when the list was last brought up to date.
 */
export class Rows {
  answer = $state.raw<ActivityAnswer | null>(null);
  error = $state('');
  /** Another page or filter was asked for and has not come. */
  busy = $state(false);
  /** Rows of this filter that are newer than what is shown. */
  fresh = $state(0);
  #filter: Filter | null = null;
  #asOf: number | null = null; // the newest id that may be shown
  #stop = new AbortController();
  #news = soon(() => void this.#look(), NEWS_MS);

  constructor(private readonly live: () => boolean) {}

  /** Show what this filter lets through. Never throws; a call ends the one before. */
  async show(filter: Filter): Promise<void> {
    const same = this.#filter && JSON.stringify([rowsQuery(filter, 0)]) === JSON.stringify([rowsQuery(this.#filter, 0)]);
    if (!same || isNewestFirst(filter)) this.#asOf = null;
    this.#filter = filter;
    this.busy = true;
    await this.#fetch(filter);
  }

  /** Bring the list up to date, with what is new. */
  async refresh(): Promise<void> {
    this.#asOf = null;
    if (this.#filter) await this.#fetch(this.#filter);
  }

  /** Ends what is under way; nothing is asked for afterwards. */
  close(): void {
    this.#filter = null;
    this.#stop.abort();
  }

  /** Something has finished, or may have been missed. */
  happened(): void {
    this.#news();
  }

  /** One row, wherever it stands; null if it is no longer kept. Throws ApiError. */
  async one(id: number, signal: AbortSignal): Promise<ActivityRow | null> {
    const query = { min_id: id, max_id: id, limit: 1 };
    return (await api.json<ActivityAnswer>(PATH, { query, signal })).data[0] ?? null;
  }

  /** All rows of the filter, `most` of them, page by page. Throws ApiError, or AbortError. */
  async all(filter: Filter, most: number, told: (done: number, total: number) => void, signal: AbortSignal): Promise<ActivityRow[]> {
    const newest = await api.json<ActivityAnswer>(PATH, { query: { limit: 1 }, signal });
    const asOf = newest.data[0]?.id ?? 0;
    const rows: ActivityRow[] = [];
    const now = Date.now();
    for (let page = 1; ; page += 1) {
      const query = pageQuery({ ...filter, page, limit: 999 }, now, asOf);
      const answer = await api.json<ActivityAnswer>(PATH, { query, signal });
      rows.push(...answer.data);
      told(Math.min(rows.length, most), answer.total);
      if (rows.length >= most || page >= answer.total_pages) return rows.slice(0, most);
    }
  }

  async #look(): Promise<void> {
    const filter = this.#filter;
    if (!filter || document.hidden) return;
    if (this.live()) return this.refresh();
    if (this.#asOf === null) return;
    try {
      const query = { ...rowsQuery(filter, Date.now()), min_id: this.#asOf + 1, limit: 1 };
      const { total } = await api.json<ActivityAnswer>(PATH, { query });
      if (filter === this.#filter) this.fresh = total;
    } catch {
      // The next event asks again; that the server is gone is told elsewhere.
    }
  }

  async #fetch(filter: Filter): Promise<void> {
    this.#stop.abort();
    const stop = (this.#stop = new AbortController());
    const { signal } = stop;
    try {
      let asOf = this.#asOf;
      const begun = activity.lastId;
      if (asOf === null && !isNewestFirst(filter)) {
        asOf = (await api.json<ActivityAnswer>(PATH, { query: { limit: 1 }, signal })).data[0]?.id ?? 0;
      }
      const answer = await api.json<ActivityAnswer>(PATH, { query: pageQuery(filter, Date.now(), asOf), signal });
      if (stop !== this.#stop) return;
      if (this.#asOf === null) this.fresh = 0;
      this.#asOf = asOf ?? Math.max(begun, answer.data[0]?.id ?? 0);
      this.answer = answer;
      this.error = '';
    } catch (error) {
      if (!isAbort(error) && stop === this.#stop) this.error = messageOf(error);
    } finally {
      if (stop === this.#stop) this.busy = false;
    }
  }
}
