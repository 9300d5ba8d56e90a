/** Scales, ticks and paths; pure, so that charts draw what tests have checked. */

export interface Point {
  x: number;
  y: number | null;
}

/** Round numbers from 0 (or `min`) to at least `max`, about `count` steps: 0, 20, 40 … */
export function niceTicks(min: number, max: number, count = 4): number[] {
  const span = max - min;
  if (!(span > 0)) return [min];
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 2.5, 5, 10].find((factor) => power * factor >= raw * 0.999) ?? 10);
  const ticks = [];
  const first = Math.floor(min / step + 1e-9);
  for (let i = first; ; i += 1) {
    ticks.push(Number((i * step).toPrecision(12)));
    if (i * step >= max - step * 1e-9) return ticks;
  }
}

/** The same in powers of two, for bytes: 0, 8 GiB, 16 GiB … */
export function byteTicks(max: number, count = 4): number[] {
  if (!(max > 0)) return [0];
  const step = 2 ** Math.ceil(Math.log2(max / count) - 1e-9);
  return Array.from({ length: Math.ceil(max / step - 1e-9) + 1 }, (_, i) => i * step);
}

const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Times (ms) on round local clock values between `from` and `to`, at most `count` of them. */
export function timeTicks(from: number, to: number, count: number): number[] {
  const step = 1000 * (STEPS_S.find((s) => (to - from) / (s * 1000) <= Math.max(1, count)) ?? 86400);
  const zone = new Date(from).getTimezoneOffset() * 60_000;
  const ticks = [];
  for (let t = Math.ceil((from - zone) / step) * step + zone; t <= to; t += step) ticks.push(t);
  return ticks;
}

/** A linear map of [from, to] onto [a, b]. */
export function scale(from: number, to: number, a: number, b: number): (value: number) => number {
  const factor = to === from ? 0 : (b - a) / (to - from);
  return (value) => a + (value - from) * factor;
}

/** An SVG path through the points; a null y, or a step wider than `gapX`, interrupts the line. A lone point is a dot. */
export function linePath(
  points: readonly Point[],
  sx: (x: number) => number,
  sy: (y: number) => number,
  gapX = Infinity,
): string {
  let path = '';
  let last: number | null = null;
  let length = 0;
  const end = () => {
    if (length === 1) path += 'h0';
    length = 0;
  };
  for (const { x, y } of points) {
    if (y === null || !Number.isFinite(y)) {
      end();
      last = null;
      continue;
    }
    const joined = last !== null && x - last <= gapX;
    if (!joined) end();
    path += `${joined ? 'L' : 'M'}${round(sx(x))} ${round(sy(y))}`;
    length += 1;
    last = x;
  }
  end();
  return path;
}

/** The same, each stretch closed down to `base` (a screen coordinate). */
export function areaPath(
  points: readonly Point[],
  sx: (x: number) => number,
  sy: (y: number) => number,
  base: number,
  gapX = Infinity,
): string {
  let path = '';
  let stretch: Point[] = [];
  const close = () => {
    const first = stretch[0];
    const end = stretch.at(-1);
    if (first && end && stretch.length > 1) {
      path += `${linePath(stretch, sx, sy)}L${round(sx(end.x))} ${base}L${round(sx(first.x))} ${base}Z`;
    }
    stretch = [];
  };
  for (const point of points) {
    const before = stretch.at(-1);
    if (point.y === null || (before && point.x - before.x > gapX)) close();
    if (point.y !== null) stretch.push(point);
  }
  close();
  return path;
}

/** The index of the point nearest to x; -1 of nothing. `points` are in order of x. */
export function nearest(points: readonly Point[], x: number): number {
  let low = 0;
  let high = points.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((points[middle] as Point).x < x) low = middle + 1;
    else high = middle;
  }
  const before = points[low - 1];
  return before && x - before.x < Math.abs((points[low] as Point).x - x) ? low - 1 : low;
}

/** The points with a null put into every step wider than `gapX`. */
export function breakGaps(points: readonly Point[], gapX: number): Point[] {
  const broken: Point[] = [];
  for (const point of points) {
    const before = broken.at(-1);
    if (before && point.x - before.x > gapX) broken.push({ x: (before.x + point.x) / 2, y: null });
    broken.push(point);
  }
  return broken;
}

/**
 * No more points than can be seen: of those that fall into the same `width` of x, the lowest and the highest
 * (`extremes`, so that no peak is lost), or their mean (for layers of a stack, which have to keep their x in common).
 * Nulls stay where they are. The borders are multiples of `width`, so that a window that moves on does not flicker.
 */
export function thin(points: readonly Point[], width: number, keep: 'extremes' | 'mean'): Point[] {
  const thinned: Point[] = [];
  let group: { x: number; y: number }[] = [];
  const close = () => {
    if (keep === 'mean' && group.length > 1) {
      const mean = (of: 'x' | 'y') => group.reduce((sum, point) => sum + point[of], 0) / group.length;
      thinned.push({ x: mean('x'), y: mean('y') });
    } else if (group.length > 2) {
      const low = group.reduce((a, b) => (b.y < a.y ? b : a));
      const high = group.reduce((a, b) => (b.y > a.y ? b : a));
      thinned.push(...(low === high ? [low] : low.x < high.x ? [low, high] : [high, low]));
    } else thinned.push(...group);
    group = [];
  };
  for (const { x, y } of points) {
    const first = group[0];
    if (y === null) {
      close();
      thinned.push({ x, y });
      continue;
    }
    if (first && Math.floor(x / width) !== Math.floor(first.x / width)) close();
    group.push({ x, y });
  }
  close();
  return thinned;
}

export interface Band {
  x: number;
  /** null: a gap. */
  low: number | null;
  high: number;
}

/** Layers, each with the same x's, one upon the other; a null in the first is a gap in all, elsewhere it is 0. */
export function stack(layers: readonly (readonly Point[])[]): Band[][] {
  const sums: (number | null)[] = (layers[0] ?? []).map(({ y }) => (y === null ? null : 0));
  return layers.map((points) =>
    points.map(({ x, y }, i) => {
      const low = sums[i] ?? null;
      const high = (low ?? 0) + (y ?? 0);
      if (low !== null) sums[i] = high;
      return { x, low, high };
    }),
  );
}

/** The outline of a layer of a stack. */
export function bandPath(band: readonly Band[], sx: (x: number) => number, sy: (y: number) => number): string {
  let path = '';
  let there = '';
  let back = '';
  const close = () => {
    if (there) path += `M${there.slice(1)}${back}Z`;
    there = back = '';
  };
  for (const { x, low, high } of band) {
    if (low === null) {
      close();
      continue;
    }
    const at = round(sx(x));
    there += `L${at} ${round(sy(high))}`;
    back = `L${at} ${round(sy(low))}${back}`;
  }
  close();
  return path;
}

/** Neighbours nearer than `width`, in order of `at`, in one group each. */
export function cluster<T extends { at: number }>(items: readonly T[], width: number): T[][] {
  const groups: T[][] = [];
  for (const item of items) {
    const group = groups.at(-1);
    if (group && item.at - (group[0] as T).at < width) group.push(item);
    else groups.push([item]);
  }
  return groups;
}

/** As short as an axis wants it: "16.0 GiB" -> "16 GiB", "0.50" -> "0.5". */
export function trimZeros(text: string): string {
  return text.replace(/\.(\d*?)0+(?!\d)/, (_, kept: string) => (kept ? `.${kept}` : ''));
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
