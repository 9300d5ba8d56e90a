/** Rows as files. What is unknown (-1 and null) is empty in CSV and Markdown; JSON is what the server said. */
import { formatFull } from '../format';
import type { ActivityRow } from '../types';
import { sessionOf, type ActivityColumn } from './columns';

export const FORMATS = {
  csv: { label: 'CSV', about: 'every field, for a spreadsheet', type: 'text/csv' },
  json: { label: 'JSON', about: 'as the API has them', type: 'application/json' },
  md: { label: 'Markdown', about: 'a table of the columns you see', type: 'text/markdown' },
} as const;
export type Format = keyof typeof FORMATS;

type Field = string | number | null | undefined;

const known = (value: number | null): number | null => (value !== null && value >= 0 ? value : null);

const FIELDS: Record<string, (row: ActivityRow) => Field> = {
  id: (row) => row.id,
  timestamp: (row) => row.timestamp,
  model: (row) => row.model,
  requested: (row) => row.requested,
  client: (row) => row.client,
  session_id: sessionOf,
  req_path: (row) => row.req_path,
  status: (row) => row.resp_status_code,
  error: (row) => row.error_msg,
  content_type: (row) => row.resp_content_type,
  input_tokens: (row) => known(row.tokens.input_tokens),
  cache_tokens: (row) => known(row.tokens.cache_tokens),
  output_tokens: (row) => known(row.tokens.output_tokens),
  draft_tokens: (row) => known(row.tokens.draft_tokens),
  draft_acc_tokens: (row) => known(row.tokens.draft_acc_tokens),
  prompt_per_second: (row) => known(row.tokens.prompt_per_second),
  tokens_per_second: (row) => known(row.tokens.tokens_per_second),
  queue_ms: (row) => row.queue_ms,
  load_ms: (row) => row.load_ms,
  ttfb_ms: (row) => known(row.ttfb_ms),
  duration_ms: (row) => row.duration_ms,
};

/** RFC 4180, with a head. Text that a spreadsheet would take for a formula gets an apostrophe before it. */
export function toCsv(rows: readonly ActivityRow[]): string {
  const lines = rows.map((row) => Object.values(FIELDS).map((field) => csvField(field(row))).join(','));
  return [Object.keys(FIELDS).join(','), ...lines, ''].join('\r\n');
}

function csvField(value: Field): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'number') return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** A table of these columns, with what the page shows in them; times in full. */
export function toMarkdown(rows: readonly ActivityRow[], columns: readonly ActivityColumn[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  const cell = (column: ActivityColumn, row: ActivityRow) =>
    markdownCell(column.id === 'time' ? formatFull(row.timestamp) : column.text(row));
  return [
    line(columns.map(({ label }) => label)),
    line(columns.map(({ num }) => (num ? '--:' : '---'))),
    ...rows.map((row) => line(columns.map((column) => cell(column, row)))),
    '',
  ].join('\n');
}

/** Nothing in it means anything to Markdown. */
function markdownCell(text: string): string {
  return text.replace(/[\\`*_[\]<>|~&]/g, '\\$&').replace(/\s*[\r\n]+\s*/g, ' ');
}

export function toText(format: Format, rows: readonly ActivityRow[], columns: readonly ActivityColumn[]): string {
  if (format === 'csv') return toCsv(rows);
  if (format === 'md') return toMarkdown(rows, columns);
  return `${JSON.stringify(rows, null, 1)}\n`;
}

/** "llamaswap-activity-2026-08-01-1203.csv", in local time. */
export function fileName(format: Format, at: Date): string {
  const pad = (value: number) => String(value).padStart(2, '0');
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `llamaswap-activity-${day}-${pad(at.getHours())}${pad(at.getMinutes())}.${format}`;
}
