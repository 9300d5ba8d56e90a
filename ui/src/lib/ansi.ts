/**
 * ANSI escape sequences (ECMA-48): colours and styles (SGR) become spans over plain text, everything else is dropped.
 */

/** A style that a span of text has. Colours: 0–15 of the palette, or "#rrggbb"; null is the default. */
export interface Style {
  fg: number | string | null;
  bg: number | string | null;
  bold: boolean;
  dim: boolean;
  italic: boolean;
  underline: boolean;
  inverse: boolean;
}

export interface Span {
  /** Offsets into the plain text; `to` is exclusive. */
  from: number;
  to: number;
  style: Style;
}

export interface Parsed {
  text: string;
  /** Only what is not plain; null if everything is. */
  spans: Span[] | null;
}

export const PLAIN: Style = Object.freeze({
  fg: null, bg: null, bold: false, dim: false, italic: false, underline: false, inverse: false,
});

// CSI; OSC up to BEL or ST; other escapes of two or three bytes; control characters but for tab.
const ESCAPES =
  /\x1b\[([0-?]*)[ -/]*([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b-\x1f\x7f]/g;

/** Parses line after line; a style that one line leaves switched on colours the next. */
export class AnsiParser {
  #style: Style = PLAIN;

  parse(raw: string): Parsed {
    if (this.#style === PLAIN && !/[\x00-\x08\x0b-\x1f\x7f]/.test(raw)) return { text: raw, spans: null };
    let text = '';
    let spans: Span[] | null = null;
    const add = (piece: string) => {
      if (!piece) return;
      if (this.#style !== PLAIN) {
        (spans ??= []).push({ from: text.length, to: text.length + piece.length, style: this.#style });
      }
      text += piece;
    };
    let at = 0;
    for (const match of raw.matchAll(ESCAPES)) {
      add(raw.slice(at, match.index));
      at = match.index + match[0].length;
      if (match[2] === 'm') this.#style = select(this.#style, match[1] ?? '');
    }
    add(raw.slice(at));
    return { text, spans };
  }
}

function select(before: Style, parameters: string): Style {
  const codes = parameters.split(/[;:]/).map((part) => (part === '' ? 0 : Number(part)));
  const style: Style = { ...before };
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i] as number;
    if (code === 0) Object.assign(style, PLAIN);
    else if (code === 1) style.bold = true;
    else if (code === 2) style.dim = true;
    else if (code === 3) style.italic = true;
    else if (code === 4) style.underline = true;
    else if (code === 7) style.inverse = true;
    else if (code === 22) style.bold = style.dim = false;
    else if (code === 23) style.italic = false;
    else if (code === 24) style.underline = false;
    else if (code === 27) style.inverse = false;
    else if (code >= 30 && code <= 37) style.fg = code - 30;
    else if (code === 39) style.fg = null;
    else if (code >= 40 && code <= 47) style.bg = code - 40;
    else if (code === 49) style.bg = null;
    else if (code >= 90 && code <= 97) style.fg = code - 82;
    else if (code >= 100 && code <= 107) style.bg = code - 92;
    else if (code === 38 || code === 48) {
      const [colour, used] = extended(codes.slice(i + 1));
      if (colour !== null) style[code === 38 ? 'fg' : 'bg'] = colour;
      i += used;
    }
  }
  return shared(style);
}

const MOST_SHARED = 4096; // a program that runs through all true colours must not fill the memory
const sharedStyles = new Map([[keyOf(PLAIN), PLAIN]]);

function keyOf(style: Style): string {
  return Object.values(style).join();
}

/** One object for all spans of a look: a hundred thousand lines have few. */
function shared(style: Style): Style {
  const key = keyOf(style);
  const known = sharedStyles.get(key);
  if (known) return known;
  if (sharedStyles.size < MOST_SHARED) sharedStyles.set(key, style);
  return style;
}

/** The colour after 38 or 48 (`5;n` or `2;r;g;b`), and how many codes it took. */
function extended(codes: number[]): [number | string | null, number] {
  if (codes[0] === 5 && codes[1] !== undefined) return [palette(codes[1]), 2];
  if (codes[0] === 2 && codes.length >= 4) return [hex(codes.slice(1, 4)), 4];
  return [null, codes.length];
}

function palette(n: number): number | string | null {
  if (!(n >= 0 && n <= 255)) return null;
  if (n < 16) return n;
  if (n >= 232) return hex([8 + (n - 232) * 10, 8 + (n - 232) * 10, 8 + (n - 232) * 10]);
  const level = (value: number) => (value ? 55 + value * 40 : 0);
  const cube = n - 16;
  return hex([level(Math.floor(cube / 36)), level(Math.floor(cube / 6) % 6), level(cube % 6)]);
}

function hex(rgb: number[]): string {
  return `#${rgb.map((c) => Math.min(255, Math.max(0, c || 0)).toString(16).padStart(2, '0')).join('')}`;
}
