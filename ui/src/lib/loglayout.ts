import type { LogBuffer } from './logbuffer';
import { RowLayout, rowsOf } from './rows';

/**
 * Which lines of a buffer are shown (those that a pattern matches, or all) and in which rows, kept up to date as the
 * buffer grows and forgets. Works in slices, so that a hundred thousand lines do not hold the page up.
 */
export class LogLayout {
  /** Rows that the last `update` took away at the top: a reader's place moves up by so much. */
  droppedRows = 0;
  #numbers: number[] = [];
  #start = 0;
  #seen: number;
  #rows: RowLayout | null;

  /** `columns`: of wrapped text; 0 for one row a line. */
  constructor(
    private readonly buffer: LogBuffer,
    private readonly regex: RegExp | null,
    private readonly columns: number,
  ) {
    this.#seen = buffer.first;
    this.#rows = columns > 0 ? new RowLayout() : null;
  }

  /** How many lines are shown. */
  get size(): number {
    return this.#numbers.length - this.#start;
  }

  get rows(): number {
    return this.#rows ? this.#rows.rows : this.size;
  }

  /** The number of the i-th line that is shown. */
  at(i: number): number {
    return this.#numbers[this.#start + i] ?? -1;
  }

  /** The row at which the i-th line begins. */
  top(i: number): number {
    return this.#rows ? this.#rows.top(i) : i;
  }

  /** The line that covers this row. */
  lineAtRow(row: number): number {
    return this.#rows ? this.#rows.at(row) : Math.min(Math.max(0, row), Math.max(0, this.size - 1));
  }

  /** Follow the buffer for about `budgetMs`; whether all of it has been looked at. */
  update(budgetMs = 8): boolean {
    const { buffer } = this;
    // What was unfinished when it was last looked at is looked at anew.
    while (this.size && (this.#numbers.at(-1) as number) >= this.#seen) {
      this.#numbers.pop();
      this.#rows?.pop();
    }
    let gone = 0;
    while (gone < this.size && this.at(gone) < buffer.first) gone += 1;
    this.droppedRows = this.#rows ? this.#rows.shift(gone) : gone;
    this.#start += gone;
    if (this.#start > 4096 && this.#start > this.#numbers.length / 4) {
      this.#numbers = this.#numbers.slice(this.#start);
      this.#start = 0;
    }
    const until = performance.now() + budgetMs;
    let n = Math.max(buffer.first, this.#seen);
    for (; n < buffer.end; n += 1) {
      const line = buffer.line(n);
      if (line && this.#matches(line.text)) {
        this.#numbers.push(n);
        this.#rows?.push(rowsOf(line.text, this.columns));
      }
      if ((n & 255) === 255 && performance.now() > until) {
        this.#seen = Math.min(n + 1, buffer.settled);
        return false;
      }
    }
    this.#seen = Math.min(n, buffer.settled);
    return true;
  }

  /** The numbers of the lines that are shown. */
  *[Symbol.iterator](): Generator<number> {
    for (let i = 0; i < this.size; i += 1) yield this.at(i);
  }

  #matches(text: string): boolean {
    if (!this.regex) return true;
    this.regex.lastIndex = 0;
    return this.regex.test(text);
  }
}
