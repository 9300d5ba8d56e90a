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

/** An SVG path through the points; a null y, or a step wider than `gapX`, interrupts the line. */
export function linePath(
  points: readonly Point[],
  sx: (x: number) => number,
  sy: (y: number) => number,
  gapX = Infinity,
): string {
  let path = '';
  let last: number | null = null;
  for (const { x, y } of points) {
    if (y === null || !Number.isFinite(y)) {
      last = null;
      continue;
    }
    path += `${last === null || x - last > gapX ? 'M' : 'L'}${round(sx(x))} ${round(sy(y))}`;
    last = x;
  }
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

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
