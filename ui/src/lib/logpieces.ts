import type { Style } from './ansi';
import type { LogLine } from './logbuffer';
import { matches } from './pattern';

/** A stretch of a line that looks the same throughout. */
export interface Piece {
  text: string;
  style: Style | null;
  mark: boolean;
}

/** A line cut where its style or a match of the pattern begins or ends. */
export function pieces(line: LogLine, regex: RegExp | null): Piece[] {
  const found = regex ? matches(regex, line.text) : [];
  if (!line.spans && !found.length) return [{ text: line.text, style: null, mark: false }];
  const cuts = new Set([0, line.text.length]);
  for (const [from, to] of found) cuts.add(from).add(to);
  for (const { from, to } of line.spans ?? []) cuts.add(from).add(to);
  const sorted = [...cuts].sort((a, b) => a - b);
  const result: Piece[] = [];
  for (let i = 0; i + 1 < sorted.length; i += 1) {
    const from = sorted[i] as number;
    const style = line.spans?.find((span) => span.from <= from && from < span.to)?.style ?? null;
    const mark = found.some(([start, end]) => start <= from && from < end);
    result.push({ text: line.text.slice(from, sorted[i + 1]), style, mark });
  }
  return result;
}

/** CSS for a style: the palette's colours are variables of app.css, the rest are as the program said. */
export function colours(style: Style | null): { color: string | null; background: string | null } {
  if (!style) return { color: null, background: null };
  const [fg, bg] = style.inverse ? [style.bg ?? 'var(--surface)', style.fg ?? 'var(--text)'] : [style.fg, style.bg];
  const soft = typeof bg === 'number' ? `color-mix(in srgb, ${named(bg)} 24%, transparent)` : bg;
  return { color: fg === null ? null : named(fg), background: soft };
}

function named(colour: number | string): string {
  if (typeof colour === 'string') return colour;
  // Bright colours 9 to 14 would be too pale on a light page: they look as 1 to 6 do.
  return `var(--ansi-${colour >= 9 && colour <= 14 ? colour - 8 : colour})`;
}

/** How grave a line says it is: our own `[WARN]`, and llama.cpp's `0.00.123.456 W`. */
export function levelOf(text: string): 'error' | 'warn' | null {
  const start = text.slice(0, 80);
  const match = /\[(ERROR|WARN)\]|^[\d.]+ ([EW]) /.exec(start);
  if (!match) return null;
  return (match[1] ?? match[2])?.startsWith('E') ? 'error' : 'warn';
}
