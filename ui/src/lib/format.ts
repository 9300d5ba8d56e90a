/** Numbers and times as people read them. Unknown values (null, undefined, NaN, the API's -1) become an en dash. */

export const UNKNOWN = '–';

type Maybe = number | null | undefined;

function known(value: Maybe): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** 1234567 -> "1,234,567". */
export function formatCount(value: Maybe): string {
  return known(value) && value >= 0 ? whole.format(value) : UNKNOWN;
}

/** 1234567 -> "1.2M"; below 10,000 in full. */
export function formatShort(value: Maybe): string {
  if (!known(value) || value < 0) return UNKNOWN;
  if (value < 10_000) return whole.format(value);
  for (const [size, unit] of [[1e9, 'B'], [1e6, 'M'], [1e3, 'k']] as const) {
    if (value >= size * 0.9995) return `${significant(value / size)}${unit}`;
  }
  return whole.format(value);
}

/** A context's length in tokens, as people speak of it: 32768 -> "32k". */
export function formatContext(value: Maybe): string {
  if (!known(value) || value < 0) return UNKNOWN;
  return value >= 1024 && value % 1024 === 0 ? `${whole.format(value / 1024)}k` : formatShort(value);
}

/** Three significant digits at most, no exponent: 0.123, 1.23, 12.3, 123. */
export function significant(value: number): string {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** Bytes in binary units: 1536 -> "1.50 KiB". */
export function formatBytes(value: Maybe): string {
  if (!known(value) || value < 0) return UNKNOWN;
  let rest = value;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (rest >= 1023.5 && unit < units.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  return `${unit ? significant(rest) : Math.round(rest)} ${units[unit]}`;
}

/** Bytes per second: "1.50 MiB/s". */
export function formatRate(value: Maybe): string {
  const text = formatBytes(value);
  return text === UNKNOWN ? text : `${text}/s`;
}

/** Seconds: "12 ms", "3.4 s", "1 min 20 s", "2 h 5 min", "3 d 4 h". */
export function formatDuration(seconds: Maybe): string {
  if (!known(seconds) || seconds < 0) return UNKNOWN;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const all = Math.round(seconds);
  if (all < 60) return `${all} s`;
  const two = (big: number, bigUnit: string, small: number, smallUnit: string) =>
    `${big} ${bigUnit}${small ? ` ${small} ${smallUnit}` : ''}`;
  if (all < 3600) return two(Math.floor(all / 60), 'min', all % 60, 's');
  if (all < 86400) return two(Math.floor(all / 3600), 'h', Math.floor((all % 3600) / 60), 'min');
  return two(Math.floor(all / 86400), 'd', Math.floor((all % 86400) / 3600), 'h');
}

export function formatMs(ms: Maybe): string {
  return formatDuration(known(ms) ? ms / 1000 : null);
}

/** A running clock: 75 -> "1:15", 3675 -> "1:01:15". For things that count up or down each second. */
export function formatClock(seconds: Maybe): string {
  if (!known(seconds)) return UNKNOWN;
  const all = Math.max(0, Math.floor(seconds));
  const pad = (value: number) => String(value).padStart(2, '0');
  const [h, m, s] = [Math.floor(all / 3600), Math.floor((all % 3600) / 60), all % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
}

/** Tokens per second; 0 and below mean that nobody measured. */
export function formatSpeed(value: Maybe): string {
  return known(value) && value > 0 ? `${significant(value)} t/s` : UNKNOWN;
}

export function formatPercent(value: Maybe): string {
  return known(value) ? `${value < 9.95 && value > 0 ? value.toFixed(1) : Math.round(value)} %` : UNKNOWN;
}

/** "just now", "12 s ago", "5 min ago", "3 h ago", "2 d ago"; times ahead count as now. */
export function formatAgo(at: string | number | null | undefined, now = Date.now()): string {
  const ms = toMs(at);
  if (ms === null) return UNKNOWN;
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  if (seconds < 3) return 'just now';
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** Local wall-clock time; with the date unless it is today. "14:03:22", "12 Mar 14:03:22". */
export function formatTime(at: string | number | null | undefined, now = Date.now()): string {
  const ms = toMs(at);
  if (ms === null) return UNKNOWN;
  const date = new Date(ms);
  const today = new Date(now);
  const time = clockTime(date);
  if (date.toDateString() === today.toDateString()) return time;
  const year = date.getFullYear() === today.getFullYear() ? undefined : ('numeric' as const);
  return `${date.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', year })} ${time}`;
}

/** "14:03:22"; by hand, for charts write it with every move of the pointer. */
function clockTime(date: Date): string {
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map((value) => String(value).padStart(2, '0')).join(':');
}

/** The same of any day, without the day. */
export function formatTimeOfDay(ms: number): string {
  return clockTime(new Date(ms));
}

/** In full, for tooltips and exports: "2026-03-12 14:03:22 +0100". */
export function formatFull(at: string | number | null | undefined): string {
  const ms = toMs(at);
  if (ms === null) return '';
  const date = new Date(ms);
  const pad = (value: number) => String(Math.abs(value)).padStart(2, '0');
  const offset = -date.getTimezoneOffset();
  const zone = `${offset < 0 ? '-' : '+'}${pad(Math.trunc(offset / 60))}${pad(offset % 60)}`;
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  return `${day} ${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())} ${zone}`;
}

function toMs(at: string | number | null | undefined): number | null {
  if (at === null || at === undefined || at === '') return null;
  const ms = typeof at === 'number' ? at : Date.parse(at);
  return Number.isFinite(ms) ? ms : null;
}

/** 1 -> "1 model", 2 -> "2 models". */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${whole.format(count)} ${count === 1 ? one : many}`;
}
