/** The columns of finished requests: what they are called, how they are sorted, what stands in them. */
import { formatCount, formatMs, formatSpeed, formatTime, UNKNOWN } from '../format';
import type { ActivityRow } from '../types';
import type { SortKey } from './filter';

export interface ActivityColumn {
  id: string;
  label: string;
  title?: string;
  num?: boolean;
  sort?: SortKey;
  /** The order that a first click gives. */
  first?: 'asc' | 'desc';
  /** Shown unless the reader chooses otherwise. */
  usual?: boolean;
  text: (row: ActivityRow) => string;
}

/** The session that the client named, if it did. */
export function sessionOf(row: ActivityRow): string {
  const session = row.metadata?.session_id;
  return typeof session === 'string' ? session : '';
}

/** Whether it went wrong, as the server's `status=error` has it. */
export function isError(row: ActivityRow): boolean {
  return row.resp_status_code < 100 || row.resp_status_code >= 400 || Boolean(row.error_msg);
}

const STATUS: Record<number, string> = { 0: 'no answer', 410: 'cancelled', 429: 'refused', 499: 'client left' };

/** "200", "502", "499 client left", "200 broken". */
export function statusText(row: ActivityRow): string {
  const { resp_status_code: code } = row;
  if (code === 0) return 'no answer';
  const word = STATUS[code] ?? (code < 400 && row.error_msg ? 'broken' : '');
  return word ? `${code} ${word}` : String(code);
}

export const COLUMNS: readonly ActivityColumn[] = [
  { id: 'id', label: 'Id', num: true, sort: 'id', first: 'desc', text: (row) => String(row.id) },
  { id: 'time', label: 'Time', title: 'When it ended', sort: 'time', first: 'desc', usual: true, text: (row) => formatTime(row.timestamp) },
  { id: 'model', label: 'Model', sort: 'model', usual: true, text: (row) => row.model },
  { id: 'requested', label: 'Asked for', title: 'The id or alias that the client wrote', text: (row) => row.requested },
  { id: 'path', label: 'Path', sort: 'req_path', usual: true, text: (row) => row.req_path },
  { id: 'client', label: 'Client', text: (row) => row.client || UNKNOWN },
  { id: 'session', label: 'Session', title: 'What the client’s session header says', text: (row) => sessionOf(row) || UNKNOWN },
  { id: 'status', label: 'Status', sort: 'resp_status_code', first: 'desc', usual: true, text: statusText },
  { id: 'type', label: 'Content type', sort: 'resp_content_type', text: (row) => row.resp_content_type || UNKNOWN },
  { id: 'in', label: 'In', title: 'Tokens of the prompt', num: true, sort: 'prompt', first: 'desc', usual: true, text: (row) => formatCount(row.tokens.input_tokens) },
  { id: 'cached', label: 'Cached', title: 'Tokens of the prompt that were cached', num: true, sort: 'cached', first: 'desc', usual: true, text: (row) => formatCount(row.tokens.cache_tokens) },
  { id: 'out', label: 'Out', title: 'Tokens of the answer', num: true, sort: 'generated', first: 'desc', usual: true, text: (row) => formatCount(row.tokens.output_tokens) },
  { id: 'drafted', label: 'Drafted', title: 'Tokens that a draft model guessed, and how many were taken', num: true, sort: 'drafted', first: 'desc', text: drafted },
  { id: 'prompt_speed', label: 'Prompt speed', title: 'Speed of reading the prompt', num: true, sort: 'prompt_speed', first: 'desc', usual: true, text: (row) => formatSpeed(row.tokens.prompt_per_second) },
  { id: 'gen_speed', label: 'Speed', title: 'Speed of generating the answer', num: true, sort: 'gen_speed', first: 'desc', usual: true, text: (row) => formatSpeed(row.tokens.tokens_per_second) },
  { id: 'queue', label: 'Queue', title: 'Waited for its turn', num: true, text: (row) => formatMs(row.queue_ms) },
  { id: 'load', label: 'Load', title: 'Waited for the model to load', num: true, text: (row) => formatMs(row.load_ms) },
  { id: 'waited', label: 'Waited', title: 'For its turn and for the model to load', num: true, usual: true, text: (row) => formatMs(row.queue_ms + row.load_ms) },
  { id: 'ttfb', label: 'First byte', title: 'From the request to the first byte of the answer', num: true, usual: true, text: (row) => formatMs(row.ttfb_ms) },
  { id: 'duration', label: 'Duration', num: true, sort: 'duration', first: 'desc', usual: true, text: (row) => formatMs(row.duration_ms) },
  { id: 'error', label: 'Error', text: (row) => row.error_msg ?? '' },
];

export const USUAL = COLUMNS.filter(({ usual }) => usual).map(({ id }) => id);

/** A choice of columns that was kept; null if nothing of it is of use. */
export function isChoice(value: unknown): value is string[] {
  return Array.isArray(value) && value.length > 0 && value.every((id) => COLUMNS.some((column) => column.id === id));
}

function drafted({ tokens: { draft_tokens: count, draft_acc_tokens: taken } }: ActivityRow): string {
  return count > 0 && taken >= 0 ? `${formatCount(count)} (${formatCount(taken)})` : formatCount(count);
}
