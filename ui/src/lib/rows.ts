/**
 * Where each line of a long list stands when lines take a different number of rows (wrapped text of one width), so that
 * only the visible ones need to be drawn. Keys are line numbers in rising order; old ones go, new ones come.
 */
export class RowLayout {
  #ends: number[] = []; // rows up to and including the i-th line, from an arbitrary zero
  #start = 0;
  #base = 0; // rows of the lines that are gone

  get lines(): number {
    return this.#ends.length - this.#start;
  }

  /** Rows of all lines together. */
  get rows(): number {
    return (this.#ends.at(-1) ?? this.#base) - this.#base;
  }

  push(rows: number): void {
    this.#ends.push((this.#ends.at(-1) ?? this.#base) + rows);
  }

  /** Forget the last `count` lines. */
  pop(count = 1): void {
    this.#ends.length = Math.max(this.#start, this.#ends.length - count);
  }

  /** Forget the first `count` lines; how many rows they took. */
  shift(count: number): number {
    const gone = Math.min(count, this.lines);
    if (!gone) return 0;
    const base = this.#ends[this.#start + gone - 1] as number;
    const rows = base - this.#base;
    this.#base = base;
    this.#start += gone;
    if (this.#start > 4096 && this.#start > this.#ends.length / 4) {
      this.#ends = this.#ends.slice(this.#start - 1);
      this.#start = 1;
    }
    return rows;
  }

  /** The row at which the i-th line begins. */
  top(i: number): number {
    return (i > 0 ? (this.#ends[this.#start + i - 1] ?? this.#base) : this.#base) - this.#base;
  }

  /** The line that covers this row. */
  at(row: number): number {
    let low = this.#start;
    let high = this.#ends.length - 1;
    const wanted = row + this.#base;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#ends[middle] as number) <= wanted) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - this.#start);
  }
}

/** How many rows `text` takes at `columns` characters a row; wide characters (CJK, emoji) count two. */
export function rowsOf(text: string, columns: number): number {
  if (!(columns > 0) || text.length <= columns / 2) return 1;
  let width = text.length;
  if (/[^\x00-\x7f]/.test(text)) {
    width = 0;
    for (const char of text) width += /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\u{1f000}-\u{1fbff}]/u.test(char) ? 2 : 1;
  }
  return Math.max(1, Math.ceil(width / columns));
}
