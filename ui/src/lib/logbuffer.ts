import { AnsiParser, type Span } from './ansi';

export interface LogLine {
  /** Counts up from 0 over the life of the buffer; never reused. */
  n: number;
  text: string;
  spans: Span[] | null;
  /** Not from the server: says that lines may be missing here. */
  gap?: true;
}

export const MAX_LINES = 100_000;
const MAX_CHARS = 32 << 20; // whatever the lines' lengths: a buffer must not eat the tab
const MAX_LINE_CHARS = 8192; // a longer one is shown as several
const OVERLAP_CHARS = 4096;

/**
 * The last lines of a log, of text that comes in pieces cut anywhere. A lone "\r" begins the line anew, as on a
 * terminal (progress bars). The last line may be unfinished: it grows with the next piece, under the same number.
 */
export class LogBuffer {
  #lines: (LogLine | undefined)[] = [];
  #start = 0; // of #lines: what lies before has been dropped
  #first = 0; // the number of the oldest line
  #chars = 0;
  #open = ''; // the unfinished line as it came
  #openShown = false;
  #ansi = new AnsiParser();
  #tail = ''; // the last of what came, to find where a replayed history goes on

  constructor(private readonly maxLines = MAX_LINES) {}

  /** How many lines there are, the unfinished one included. */
  get size(): number {
    return this.#lines.length - this.#start;
  }

  /** The number of the oldest line that is still there; lines before it are gone. */
  get first(): number {
    return this.#first;
  }

  /** One more than the number of the newest line. */
  get end(): number {
    return this.#first + this.size;
  }

  /** The number of the first line that may still change: the unfinished one's, or `end`. */
  get settled(): number {
    return this.end - (this.#openShown ? 1 : 0);
  }

  line(n: number): LogLine | undefined {
    return this.#lines[this.#start + n - this.#first];
  }

  append(piece: string): void {
    if (!piece) return;
    this.#tail = (this.#tail + piece).slice(-OVERLAP_CHARS);
    const parts = (this.#open + piece).split('\n');
    if (this.#openShown) this.#drop();
    const open = parts.pop() as string;
    for (const part of parts) this.#finish(part.endsWith('\r') ? part.slice(0, -1) : part);
    this.#open = open;
    while (this.#open.length > MAX_LINE_CHARS && !this.#open.includes('\r')) {
      this.#push(this.#open.slice(0, MAX_LINE_CHARS));
      this.#open = this.#open.slice(MAX_LINE_CHARS);
    }
    if (this.#open) {
      // The terminal's cursor may stand at the line's start already: what was written is still to be seen.
      const shown = overwritten(this.#open.endsWith('\r') ? this.#open.slice(0, -1) : this.#open);
      this.#open = this.#open.endsWith('\r') ? `${shown}\r` : shown;
      this.#add({ n: this.end, text: shown.replace(ESCAPE, ''), spans: null });
      this.#openShown = true;
    }
    this.#trim();
  }

  /**
   * The server sent its history again, after a gap: appends only what is new, and a line that says so if the
   * history does not reach back to what is here.
   */
  replay(history: string): void {
    if (!this.size) return this.append(history);
    const at = this.#tail ? overlap(this.#tail, history) : -1;
    if (at >= 0) return this.append(history.slice(at));
    if (!history) return;
    this.note('reconnected; lines may be missing here');
    this.append(history);
  }

  /** Put in a line of our own. */
  note(text: string): void {
    if (this.#openShown) {
      this.#drop();
      this.#push(this.#open);
    }
    this.#open = '';
    this.#tail = '';
    this.#add({ n: this.end, text, spans: null, gap: true });
    this.#trim();
  }

  clear(): void {
    this.#first = this.end;
    this.#lines = [];
    this.#start = 0;
    this.#chars = 0;
    this.#open = '';
    this.#openShown = false;
  }

  /** Plain text of the lines with these numbers (default: all), for download and copy. */
  text(numbers?: Iterable<number>): string {
    let text = '';
    for (const n of numbers ?? range(this.first, this.end)) {
      const line = this.line(n);
      if (line) text += `${line.text}\n`;
    }
    return text;
  }

  #finish(raw: string): void {
    const line = overwritten(raw);
    for (let at = 0; at < Math.max(1, line.length); at += MAX_LINE_CHARS) this.#push(line.slice(at, at + MAX_LINE_CHARS));
  }

  #push(raw: string): void {
    const { text, spans } = this.#ansi.parse(raw);
    this.#add({ n: this.end, text, spans });
  }

  #add(line: LogLine): void {
    this.#lines.push(line);
    this.#chars += line.text.length;
  }

  #drop(): void {
    const line = this.#lines.pop();
    this.#chars -= line?.text.length ?? 0;
    this.#openShown = false;
  }

  #trim(): void {
    while (this.size > this.maxLines || (this.#chars > MAX_CHARS && this.size > 1)) {
      this.#chars -= this.#lines[this.#start]?.text.length ?? 0;
      this.#lines[this.#start] = undefined;
      this.#start += 1;
      this.#first += 1;
    }
    // Moving everything down once in a while costs less than once per line.
    if (this.#start > 4096 && this.#start > this.#lines.length / 4) {
      this.#lines = this.#lines.slice(this.#start);
      this.#start = 0;
    }
  }
}

const ESCAPE = /\x1b\[[0-?]*[ -/]*[@-~]?|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f]/g;

/** What is left to see of a line whose beginning was overwritten after each "\r". */
function overwritten(raw: string): string {
  const at = raw.lastIndexOf('\r');
  return at < 0 ? raw : raw.slice(at + 1);
}

/** Where in `history` the text goes on that ends with `tail`; -1 if it does not hold it. */
export function overlap(tail: string, history: string): number {
  if (history.startsWith(tail)) return tail.length;
  const at = history.lastIndexOf(tail);
  if (at >= 0) return at + tail.length;
  // The history may have lost the older part of the tail: a whole line of it must be there, at its beginning.
  for (let cut = tail.indexOf('\n') + 1; cut > 0 && cut < tail.length; cut = tail.indexOf('\n', cut) + 1) {
    if (history.startsWith(tail.slice(cut))) return tail.length - cut;
  }
  return -1;
}

function* range(from: number, to: number): Generator<number> {
  for (let n = from; n < to; n += 1) yield n;
}
