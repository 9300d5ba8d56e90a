import { describe, expect, it } from 'vitest';
import { areaPath, byteTicks, linePath, nearest, niceTicks, scale, timeTicks } from './chart';
import * as f from './format';
import { bins, percentile } from './stats';

describe('format', () => {
  it('says an en dash for what nobody knows', () => {
    const all = [f.formatCount, f.formatShort, f.formatBytes, f.formatDuration, f.formatSpeed, f.formatContext];
    for (const format of all) expect([format(null), format(undefined), format(NaN), format(-1)]).toEqual(Array(4).fill(f.UNKNOWN));
    expect([f.formatAgo(null), f.formatTime('never'), f.formatFull('')]).toEqual([f.UNKNOWN, f.UNKNOWN, '']);
  });
  it('counts', () => {
    expect([0, 999, 1234567].map(f.formatCount)).toEqual(['0', '999', '1,234,567']);
    expect([9999, 10_000, 99_949, 999_999, 1_234_567].map(f.formatShort)).toEqual(['9,999', '10.0k', '99.9k', '1.00M', '1.23M']);
    expect([8192, 131072, 200_000, 512].map(f.formatContext)).toEqual(['8k', '128k', '200k', '512']);
    expect([f.plural(1, 'model'), f.plural(0, 'model'), f.plural(2, 'has', 'have')]).toEqual(['1 model', '0 models', '2 have']);
  });
  it('weighs', () => {
    expect([0, 1023, 1024, 1536, 1024 ** 2 * 1023.9, 25e9].map(f.formatBytes)).toEqual(['0 B', '1023 B', '1.00 KiB', '1.50 KiB', '1.00 GiB', '23.3 GiB']);
  });
  it('measures time', () => {
    expect([0, 0.0004, 0.12, 0.9996, 1.25, 9.96, 59.4, 59.6, 60, 80, 3600, 3661, 90_000].map(f.formatDuration)).toEqual([
      '0 ms', '0 ms', '120 ms', '1.0 s', '1.3 s', '10 s', '59 s', '1 min', '1 min', '1 min 20 s', '1 h', '1 h 1 min', '1 d 1 h',
    ]);
    expect([0, 75.9, 3675, -3].map(f.formatClock)).toEqual(['0:00', '1:15', '1:01:15', '0:00']);
    expect([f.formatMs(1500), f.formatSpeed(0), f.formatSpeed(92.25), f.formatSpeed(1234.5)]).toEqual(['1.5 s', f.UNKNOWN, '92.3 t/s', '1235 t/s']);
    expect([0, 3.21, 55.5, 100].map(f.formatPercent)).toEqual(['0 %', '3.2 %', '56 %', '100 %']);
  });
  it('tells when', () => {
    const now = Date.parse('2026-08-01T12:00:00Z');
    const ago = (seconds: number) => f.formatAgo(now - seconds * 1000, now);
    expect([-5, 2, 12, 61, 7200, 200_000].map(ago)).toEqual(['just now', 'just now', '12 s ago', '1 min ago', '2 h ago', '2 d ago']);
    const noon = new Date(2026, 7, 1, 12, 0, 0).getTime();
    expect(f.formatTime(noon, noon)).toBe('12:00:00');
    expect(f.formatTimeOfDay(noon - 3_598_000)).toBe('11:00:02');
    expect(f.formatTime(noon, noon + 86_400_000)).toBe('1 Aug 12:00:00');
    expect(f.formatTime(noon, noon + 86_400_000 * 300)).toBe('1 Aug 2026 12:00:00');
    expect(f.formatFull(noon)).toMatch(/^2026-08-01 12:00:00 [+-]\d{4}$/);
  });
});

describe('statistics', () => {
  it('finds percentiles', () => {
    expect(percentile([], 50)).toBeNull();
    expect([0, 50, 75, 100].map((p) => percentile([4, 1, 3, 2], p))).toEqual([1, 2.5, 3.25, 4]);
  });
  it('counts in bins', () => {
    expect(bins([])).toEqual([]);
    const found = bins([0, 1, 2, 10]);
    expect(found.map(({ count }) => count)).toEqual([2, 1, 0, 0, 1]);
    expect([found[0]?.from, found.at(-1)?.to]).toEqual([0, 10]);
    expect(bins([5, 5, 5]).reduce((sum, { count }) => sum + count, 0)).toBe(3);
    expect(bins(Array.from({ length: 1e5 }, (_, i) => i))).toHaveLength(18);
  });
});

describe('charts', () => {
  it('put ticks on round values', () => {
    expect(niceTicks(0, 100)).toEqual([0, 25, 50, 75, 100]);
    expect(niceTicks(0, 0.7)).toEqual([0, 0.2, 0.4, 0.6, 0.8]);
    expect(niceTicks(3, 3)).toEqual([3]);
    expect(byteTicks(24 * 2 ** 30)).toEqual([0, 8, 16, 24].map((g) => g * 2 ** 30));
    const from = new Date(2026, 7, 1, 12, 3).getTime();
    expect(timeTicks(from, from + 3_600_000, 4).map((t) => new Date(t).getMinutes())).toEqual([15, 30, 45, 0]);
  });
  it('draw lines with gaps', () => {
    const same = scale(0, 1, 0, 1);
    const points = [{ x: 0, y: 1 }, { x: 1, y: 2 }, { x: 2, y: null }, { x: 3, y: 1 }, { x: 9, y: 1 }];
    expect(linePath(points, same, same)).toBe('M0 1L1 2M3 1L9 1');
    expect(linePath(points, same, same, 5)).toBe('M0 1L1 2M3 1h0M9 1h0');
    expect(areaPath(points, same, same, 5, 5)).toBe('M0 1L1 2L1 5L0 5Z');
    expect(scale(5, 5, 0, 9)(5)).toBe(0);
  });
  it('find the nearest point', () => {
    const points = [0, 10, 20].map((x) => ({ x, y: 0 }));
    expect([-5, 4, 6, 14, 99].map((x) => nearest(points, x))).toEqual([0, 0, 1, 1, 2]);
    expect(nearest([], 1)).toBe(-1);
  });
});
