/** What the activity page shows, as its address says it and as the server is asked for it. */

export const SORTS = [
  'id', 'time', 'model', 'req_path', 'resp_status_code', 'resp_content_type', 'cached', 'prompt', 'generated', 'drafted',
  'prompt_speed', 'gen_speed', 'duration',
] as const; // prettier-ignore
export type SortKey = (typeof SORTS)[number];

export const LIMITS = [25, 50, 100, 250] as const;
const MOST_PAGE = 1e9;

export interface Filter {
  /** An id; "" is every model. */
  model: string;
  /** "ok", "error", a class ("4xx") or a code ("499"); "" is every status. */
  status: string;
  /** An age ("15m", "2h", "7d"); "" is none. Not together with `start` and `end`. */
  since: string;
  /** RFC 3339; "" is none. */
  start: string;
  end: string;
  sort: SortKey;
  order: 'asc' | 'desc';
  page: number;
  limit: number;
}

export const EVERYTHING: Filter = {
  model: '', status: '', since: '', start: '', end: '', sort: 'time', order: 'desc', page: 1, limit: LIMITS[0],
}; // prettier-ignore

/** The filter in an address; what makes no sense there is as if it were not there. */
export function parseFilter(query: URLSearchParams): Filter {
  const of = (name: string, pattern: RegExp) => {
    const text = query.get(name) ?? '';
    return pattern.test(text) ? text : '';
  };
  const number = (name: string, most: number, otherwise: number) => {
    const value = Number(of(name, /^[1-9]\d{0,9}$/) || otherwise);
    return value <= most ? value : otherwise;
  };
  const [start, end] = [moment(query.get('start')), moment(query.get('end'))];
  const sort = query.get('sort') as SortKey;
  return {
    model: query.get('model')?.trim() ?? '',
    status: of('status', /^(ok|error|[1-5]xx|[1-5]\d\d)$/),
    since: start || end ? '' : of('since', /^[1-9]\d{0,4}[mhd]$/),
    start,
    end,
    sort: SORTS.includes(sort) ? sort : EVERYTHING.sort,
    order: query.get('order') === 'asc' ? 'asc' : 'desc',
    page: number('page', MOST_PAGE, 1),
    limit: number('limit', 999, EVERYTHING.limit),
  };
}

/** A time as the server wants it (an offset is needed), or "" if it is none. */
function moment(text: string | null): string {
  if (!text || !/^\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?$/.test(text)) return '';
  const ms = Date.parse(text);
  return Number.isFinite(ms) ? new Date(ms).toISOString() : '';
}

/** The same for an address: null where nothing needs to be said. */
export function filterQuery(filter: Partial<Filter>): Record<string, string | null> {
  return Object.fromEntries(
    Object.entries(filter).map(([key, value]) => [key, value === EVERYTHING[key as keyof Filter] ? null : String(value)]),
  );
}

/** Whether it leaves anything out. */
export function isNarrow({ model, status, since, start, end }: Filter): boolean {
  return [model, status, since, start, end].some(Boolean);
}

/** Newest first, from the top: what new rows come in at. */
export function isNewestFirst({ sort, order, page }: Filter): boolean {
  return page === 1 && order === 'desc' && (sort === 'time' || sort === 'id');
}

const UNIT_MS = { m: 60_000, h: 3_600_000, d: 86_400_000 };

/** The query of /api/metrics/activity for the rows it lets through, without page and order. `now` in ms. */
export function rowsQuery(filter: Filter, now: number): Record<string, string | null> {
  const { since } = filter;
  const age = since && Number(since.slice(0, -1)) * UNIT_MS[since.slice(-1) as 'm' | 'h' | 'd'];
  return {
    model: filter.model || null,
    status: filter.status || null,
    start: age ? new Date(now - age).toISOString() : filter.start || null,
    end: filter.end || null,
  };
}

/** The whole query, with nothing newer than `maxId` if that is given. */
export function pageQuery(filter: Filter, now: number, maxId: number | null): Record<string, string | number | null> {
  const { sort, order, page, limit } = filter;
  return { ...rowsQuery(filter, now), sort, order, page, limit, max_id: maxId };
}

/** For `<input type="datetime-local">`: local time, to the minute. */
export function toLocal(iso: string): string {
  if (!iso) return '';
  const at = new Date(iso);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
}

/** What such a field says, as RFC 3339; "" if it is empty. */
export function fromLocal(text: string): string {
  const ms = Date.parse(text);
  return text && Number.isFinite(ms) ? new Date(ms).toISOString() : '';
}
