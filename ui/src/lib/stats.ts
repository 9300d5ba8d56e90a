/** The p-th percentile (0 to 100) with linear interpolation; null of nothing. Does not need sorted values. */
export function percentile(values: readonly number[], p: number): number | null {
  if (!values.length) return null;
  const sorted = [...values].sort((a, b) => a - b);
  const at = (Math.min(100, Math.max(0, p)) / 100) * (sorted.length - 1);
  const low = sorted[Math.floor(at)] as number;
  const high = sorted[Math.ceil(at)] as number;
  return low + (high - low) * (at - Math.floor(at));
}

export interface Bin {
  from: number;
  to: number;
  count: number;
}

/** Equal bins over the values, their number by Sturges' rule, 5 to 20; empty of nothing. */
export function bins(values: readonly number[]): Bin[] {
  if (!values.length) return [];
  const min = values.reduce((a, b) => Math.min(a, b));
  const max = values.reduce((a, b) => Math.max(a, b));
  const count = Math.min(20, Math.max(5, Math.ceil(Math.log2(values.length)) + 1));
  const size = (max - min) / count || 1;
  const found = Array.from({ length: count }, (_, i) => ({ from: min + i * size, to: min + (i + 1) * size, count: 0 }));
  for (const value of values) {
    const bin = found[Math.min(count - 1, Math.floor((value - min) / size))];
    if (bin) bin.count += 1;
  }
  return found;
}
