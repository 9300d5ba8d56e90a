import { describe, expect, it } from 'vitest';
import { bandPath, breakGaps, cluster, scale, stack, thin, trimZeros, type Point } from '../chart';
import type { GpuSample, Hardware, ModelSample, PerformanceAnswer, SystemSample } from '../types';
import {
  acceleratorNames, coreGrid, disksAt, figures, FORMATS, gpuCharts, gpusOf, interfaces, machineCharts, modelCharts, modelLayers, traffic,
} from './charts';
import { gapMs, hasNews, KEPT_MS, merge, rangeOf, since, type Moment } from './history';

const NOON = Date.parse('2026-08-01T12:00:00.000Z');
const time = (seconds: number) => new Date(NOON + seconds * 1000).toISOString();
const MIB = 1 << 20;

const system = (seconds: number, fields: Partial<SystemSample> = {}): SystemSample => ({
  timestamp: time(seconds), cpu_util_per_core: [10, 30], mem_total_mb: 1000, mem_used_mb: 400, mem_free_mb: 600, swap_total_mb: 0, swap_used_mb: 0,
  load_avg_1: 1, load_avg_5: 2, load_avg_15: 3, net_io: [], disk_io: null, disks: [], ...fields,
});
const gpu = (seconds: number, fields: Partial<GpuSample> = {}): GpuSample => ({
  timestamp: time(seconds), id: 0, name: 'RTX', uuid: 'GPU-1', vendor: 'nvidia', temp_c: 50, vram_temp_c: 60, gpu_util_pct: 70, mem_util_pct: 40,
  mem_used_mb: 100, mem_total_mb: 200, fan_speed_pct: null, power_draw_w: 300, unified: false, ...fields,
});
const use = (seconds: number, model: string, fields: Partial<ModelSample> = {}): ModelSample => ({
  timestamp: time(seconds), model, cpu_percent: 50, rss_bytes: 10, gpu_bytes: 20, ...fields,
});
const answer = (fields: Partial<PerformanceAnswer> = {}): PerformanceAnswer => ({
  enabled: true, every_s: 5, sys_stats: [], gpu_stats: [], models: [], marks: [], ...fields,
});
const moment = (seconds: number, fields: Partial<Moment> = {}): Moment => ({
  at: NOON + seconds * 1000, system: system(seconds), gpus: [], models: [], ...fields,
});
const ys = (points: readonly Point[] | undefined) => points?.map(({ y }) => y);

describe('history', () => {
  it('puts together what belongs to one time, also without the machine', () => {
    const history = merge(null, answer({
      sys_stats: [system(0)], gpu_stats: [gpu(0), gpu(0, { id: 1 }), gpu(5)], models: [use(0, 'a')], marks: [{ timestamp: time(6), model: 'a', event: 'crashed' }],
    }));
    expect(history.moments.map(({ at, system: it, gpus, models }) => [at - NOON, it !== null, gpus.length, models.length])).toEqual([[0, true, 2, 1], [5000, false, 1, 0]]);
    expect([history.last, history.everyMs, history.marks]).toEqual([time(6), 5000, [{ at: NOON + 6000, model: 'a', event: 'crashed' }]]);
  });
  it('takes news once, and forgets what is older than an hour', () => {
    const first = merge(null, answer({ sys_stats: [system(0), system(5)], marks: [{ timestamp: time(1), model: 'a', event: 'loaded' }] }));
    const again = merge(first, answer({ sys_stats: [system(5), system(10)], marks: [{ timestamp: time(1), model: 'a', event: 'loaded' }] }));
    expect(again.moments.map(({ at }) => at - NOON)).toEqual([0, 5000, 10_000]);
    expect([again.marks.length, again.last]).toEqual([1, time(10)]);
    const later = merge(again, answer({ every_s: 10, sys_stats: [system(3607)] }));
    expect([later.moments.map(({ at }) => at - NOON), later.marks, later.everyMs]).toEqual([[10_000, 3_607_000], [], 10_000]);
  });
  it('stays as it is without news', () => {
    expect(merge(null, answer())).toEqual({ everyMs: 5000, moments: [], marks: [], last: '' });
    const first = merge(null, answer({ sys_stats: [system(0)] }));
    expect(merge(first, answer())).toEqual(first);
    expect([hasNews(answer()), hasNews(answer({ marks: [{ timestamp: time(0), model: 'a', event: 'loaded' }] }))]).toEqual([false, true]);
  });
  it('knows a gap from a period that was made shorter', () => {
    const steps = (...seconds: number[]) => gapMs({ everyMs: 5000, marks: [], last: '', moments: seconds.map((s) => moment(s)) });
    expect([steps(), steps(0, 5, 10, 100), steps(0, 60, 120, 125)]).toEqual([12_500, 12_500, 150_000]);
  });
  it('shows what it has unless another range is asked for', () => {
    const over = (seconds: number) => merge(null, answer({ sys_stats: [system(0), system(seconds)] }));
    expect([null, over(60), over(301), over(901)].map((history) => rangeOf(null, history).id)).toEqual(['5m', '5m', '15m', '1h']);
    expect([rangeOf('15m', over(60)).id, rangeOf('2h', over(60)).id, rangeOf('1h', null).ms]).toEqual(['15m', '5m', KEPT_MS]);
  });
  it('lets lines come in from the edge', () => {
    const moments = [0, 5, 10].map((s) => moment(s));
    const from = (seconds: number) => since(moments, NOON + seconds * 1000).map(({ at }) => (at - NOON) / 1000);
    expect([from(-1), from(0), from(6), from(11)]).toEqual([[0, 5, 10], [0, 5, 10], [5, 10], [10]]);
    expect(since([], 0)).toEqual([]);
  });
});

describe('the machine', () => {
  const charts = (moments: Moment[]) => Object.fromEntries(machineCharts(moments, 'eth0', 12_500).map((chart) => [chart.id, chart]));
  it('has a chart for what is told', () => {
    const found = charts([moment(0), moment(5, { system: system(5, { cpu_util_per_core: [] }) }), moment(10, { system: null })]);
    expect(Object.keys(found)).toEqual(['cpu', 'load', 'memory']);
    expect(found.cpu?.lines.map(({ label, points }) => [label, ys(points)])).toEqual([['All cores', [20, null, null]], ['Busiest core', [30, null, null]]]);
    expect([found.memory?.max, ys(found.memory?.lines[0]?.points), found.memory?.lines.length, found.memory?.note]).toEqual([
      1000 * MIB, [400 * MIB, 400 * MIB, null], 1, 'of 1000 MiB, no swap',
    ]);
    expect(machineCharts([moment(0, { system: null })], undefined, 1)).toEqual([]);
  });
  it('leaves out the load where there is none, and the busiest of one core', () => {
    const found = charts([moment(0, { system: system(0, { cpu_util_per_core: [7], load_avg_1: null, load_avg_5: null, load_avg_15: null }) })]);
    expect([Object.keys(found), found.cpu?.lines.length]).toEqual([['cpu', 'memory'], 1]);
  });
  it('makes room for a swap larger than the memory', () => {
    const found = charts([moment(0, { system: system(0, { swap_total_mb: 9000, swap_used_mb: 5000 }) })]);
    expect([found.memory?.max, found.memory?.note]).toEqual([5000 * MIB, 'of 1000 MiB, swap of 8.79 GiB']);
  });
  it('counts traffic by the second, but not over gaps and restarts', () => {
    const at = (seconds: number, bytes: number) => moment(seconds, { system: system(seconds, { net_io: [{ name: 'eth0', bytes_recv: bytes, bytes_sent: 2 * bytes }] }) });
    const moments = [at(0, 1000), at(5, 2000), moment(10, { system: null }), at(12, 2700), at(60, 9000), at(65, 10), at(70, 10)];
    const rates = traffic(moments, 'eth0', 12_500);
    expect(ys(rates.received)).toEqual([null, 200, null, 100, null, null, 0]);
    expect(ys(rates.sent)).toEqual([null, 400, null, 200, null, null, 0]);
    expect(ys(traffic(moments, 'wlan0', 12_500).sent)).toEqual(Array(7).fill(null));
  });
  it('puts the busiest interface first and the loopback last', () => {
    const net = [['docker0', 5], ['eth0', 9], ['lo', 99], ['wlan0', 5]].map(([name, bytes]) => ({ name: String(name), bytes_recv: Number(bytes), bytes_sent: 0 }));
    expect(interfaces([moment(0, { system: system(0, { net_io: net }) }), moment(5, { system: null })])).toEqual(['eth0', 'docker0', 'wlan0', 'lo']);
    expect(interfaces([])).toEqual([]);
  });
  it('knows how full disks were', () => {
    const disk = (used: number) => [{ path: '/', total_bytes: 10, used_bytes: used, free_bytes: 10 - used }];
    const moments = [moment(0, { system: system(0, { disks: disk(1) }) }), moment(5, { system: system(5, { disks: disk(2) }) }), moment(10, { system: null })];
    expect([disksAt(moments, null), disksAt(moments, NOON + 1), disksAt(moments, NOON - 1)]).toEqual([disk(2), disk(1), []]);
  });
  it('draws each core where it was busy', () => {
    const moments = [0, 5, 10, 40].map((s, i) => moment(s, { system: system(s, { cpu_util_per_core: [i, 10 * i] }) }));
    const grid = (width: number, to: number) => coreGrid(moments, { from: NOON, to: NOON + to * 1000, width, everyMs: 5000, gap: 12_500 });
    const { cores, values } = grid(9, 45);
    expect([cores, [...values]]).toEqual([2, [0, 1, 2, NaN, NaN, NaN, NaN, NaN, 3, 0, 10, 20, NaN, NaN, NaN, NaN, NaN, 30]]);
    expect([...grid(2, 20).values]).toEqual([0.5, 2, 5, 20]); // two samples in the first column
    expect(coreGrid([moment(0, { system: null })], { from: NOON, to: NOON + 1, width: 3, everyMs: 1, gap: 1 })).toEqual({ cores: 0, values: new Float32Array(0) });
  });
});

describe('GPUs', () => {
  it('of which there is one have together what belongs together', () => {
    const { charts, untold } = gpuCharts([moment(0, { gpus: [gpu(0)] }), moment(5)]);
    expect(charts.map(({ title, note, max, lines }) => [title, note, max, lines.map(({ label, points }) => [label, ...(ys(points) ?? [])])])).toEqual([
      ['Utilisation', undefined, 100, [['GPU 0', 70, null], ['Memory traffic', 40, null]]],
      ['GPU memory', 'of 200 MiB', 200 * MIB, [['GPU 0', 100 * MIB, null]]],
      ['Temperature', undefined, undefined, [['GPU 0', 50, null], ['Memory', 60, null]]],
      ['Power', undefined, undefined, [['GPU 0', 300, null]]],
    ]);
    expect(untold).toEqual(['fan']);
  });
  it('of which there are several have a line each', () => {
    const { charts } = gpuCharts([moment(0, { gpus: [gpu(0), gpu(0, { id: 1, uuid: 'GPU-2', vram_temp_c: null, mem_total_mb: 300 })] })]);
    expect(charts.map(({ id, lines }) => [id, ...lines.map(({ label }) => label)])).toEqual([
      ['gpu-util', 'GPU 0', 'GPU 1'], ['gpu-memory', 'GPU 0', 'GPU 1'], ['gpu-memutil', 'GPU 0', 'GPU 1'], ['gpu-temp', 'GPU 0', 'GPU 1'], ['gpu-vram', 'GPU 0'], ['gpu-power', 'GPU 0', 'GPU 1'],
    ]);
    expect([charts[1]?.max, charts[1]?.note]).toEqual([300 * MIB, undefined]);
  });
  it('are told apart by maker if they have the same number', () => {
    expect(gpusOf([moment(0, { gpus: [gpu(0), gpu(0, { vendor: 'amd' })] })]).map(({ label }) => label)).toEqual(['AMD 0', 'NVIDIA 0']);
    expect(gpuCharts([moment(0)])).toMatchObject({ charts: [] });
  });
  it('are named once if they are equal', () => {
    const card = { id: 0, vendor: 'nvidia', name: 'RTX', uuid: 'x', driver: '550', memory_bytes: 1 << 30, unified: false };
    const names = (...accelerators: Hardware['accelerators']) => acceleratorNames({ accelerators } as Hardware).map(({ name, about }) => `${name}: ${about}`);
    expect(names(card, { ...card, id: 1 })).toEqual(['2 × RTX: 1.00 GiB each, driver 550']);
    expect(names({ ...card, memory_bytes: null, driver: null }, { ...card, unified: true })).toEqual(['RTX: ', 'RTX: 1.00 GiB, shared with the machine, driver 550']);
  });
});

describe('models', () => {
  it('are layers, that are 0 where a model was not there', () => {
    const moments = [moment(0, { models: [use(0, 'b')], gpus: [gpu(0)] }), moment(5, { models: [use(5, 'a', { cpu_percent: null }), use(5, 'b')] })];
    const charts = modelCharts(moments, modelLayers(moments));
    expect(charts.map(({ id, max, lines }) => [id, max, ...lines.map(({ label, points }) => [label, ...(ys(points) ?? [])])])).toEqual([
      ['model-gpu', 200 * MIB, ['a', 0, 20], ['b', 20, 20]],
      ['model-rss', undefined, ['a', 0, 10], ['b', 10, 10]],
      ['model-cpu', undefined, ['a', 0, 0], ['b', 50, 50]],
    ]);
  });
  it('have no GPU chart if nobody tells', () => {
    const moments = [moment(0, { models: [use(0, 'a', { gpu_bytes: null })] })];
    expect(modelCharts(moments, modelLayers(moments)).map(({ id }) => id)).toEqual(['model-rss', 'model-cpu']);
    expect(modelCharts([moment(0)], [])).toEqual([]);
  });
  it('keep their colour when one of them is out of sight', () => {
    const all = [moment(0, { models: [use(0, 'a')] }), moment(5, { models: [use(5, 'b')] })];
    const [chart] = modelCharts(all.slice(1), modelLayers(all));
    expect(chart?.lines.map(({ label, color }) => [label, color])).toEqual([['b', 'var(--series-2)']]);
  });
  it('are eight layers at most, the smaller ones together', () => {
    const models = 'abcdefghij'.split('').map((id, i) => use(0, id, { rss_bytes: 100 - i }));
    const layers = modelLayers([moment(0, { models })]);
    expect(layers.map(({ label }) => label)).toEqual(['a', 'b', 'c', 'd', 'e', 'f', 'g', '3 others']);
    const rss = modelCharts([moment(0, { models })], layers).find(({ id }) => id === 'model-rss');
    expect(ys(rss?.lines.at(-1)?.points)).toEqual([93 + 92 + 91]);
  });
});

describe('figures', () => {
  it('say lines in numbers', () => {
    const chart = { id: 'x', title: 'CPU', unit: 'percent' as const, lines: [{ label: 'All', points: [{ x: 0, y: 99 }, { x: 5, y: 10 }, { x: 6, y: 30 }, { x: 7, y: null }] }] };
    expect(figures([chart], 5)).toEqual([{ id: 'x 0', chart: 'CPU', label: 'All', now: '–', low: '10 %', mean: '20 %', high: '30 %' }]);
    expect(figures([chart], 9)).toMatchObject([{ low: '–', mean: '–', high: '–' }]);
  });
  it('have units', () => {
    expect([FORMATS.celsius(61.6), FORMATS.watts(318.42), FORMATS.number(1.5), FORMATS.rate(1536)]).toEqual(['62 °C', '318 W', '1.50', '1.50 KiB/s']);
    expect(Object.values(FORMATS).map((format) => format(null))).toEqual(Array(6).fill('–'));
  });
});

describe('drawing', () => {
  const at = (...values: (number | null)[]) => values.map((y, x) => ({ x, y }));
  it('breaks lines at gaps', () => {
    expect(breakGaps([{ x: 0, y: 1 }, { x: 2, y: 1 }, { x: 9, y: 1 }], 3)).toEqual([{ x: 0, y: 1 }, { x: 2, y: 1 }, { x: 5.5, y: null }, { x: 9, y: 1 }]);
  });
  it('thins out and keeps the peaks', () => {
    expect(thin(at(1, 9, 2, 5, 5, 5, 5, 0), 4, 'extremes')).toEqual([{ x: 0, y: 1 }, { x: 1, y: 9 }, { x: 4, y: 5 }, { x: 7, y: 0 }]);
    expect(thin(at(3, 3, 3), 4, 'extremes')).toEqual([{ x: 0, y: 3 }]);
    expect(thin(at(1, null, 3, 5), 4, 'mean')).toEqual([{ x: 0, y: 1 }, { x: 1, y: null }, { x: 2.5, y: 4 }]);
    expect(thin(at(1, 2), 1, 'mean')).toEqual(at(1, 2));
    expect(thin([], 4, 'mean')).toEqual([]);
  });
  it('does not flicker when the window moves on', () => {
    const points = Array.from({ length: 100 }, (_, x) => ({ x, y: (x * 37) % 11 }));
    const [all, later] = [thin(points, 10, 'extremes'), thin(points.slice(20), 10, 'extremes')];
    expect(all.slice(-later.length)).toEqual(later);
  });
  it('stacks', () => {
    const bands = stack([at(1, null, 2), at(3, 4, null)]);
    expect(bands).toEqual([
      [{ x: 0, low: 0, high: 1 }, { x: 1, low: null, high: 0 }, { x: 2, low: 0, high: 2 }],
      [{ x: 0, low: 1, high: 4 }, { x: 1, low: null, high: 4 }, { x: 2, low: 2, high: 2 }],
    ]);
    const same = scale(0, 1, 0, 1);
    expect(bandPath(bands[0] ?? [], same, same)).toBe('M0 1L0 0ZM2 2L2 0Z');
    expect(bandPath(stack([at(1, 2)])[0] ?? [], same, same)).toBe('M0 1L1 2L1 0L0 0Z');
    expect(stack([])).toEqual([]);
  });
  it('puts marks that are too near into one', () => {
    expect(cluster([0, 2, 4, 5, 20].map((x) => ({ at: x })), 5).map((group) => group.length)).toEqual([3, 1, 1]);
  });
  it('shortens what stands on an axis', () => {
    expect(['16.0 GiB', '0.50', '2.50 KiB/s', '100 %', '1.25', '10', '1.05'].map(trimZeros)).toEqual(['16 GiB', '0.5', '2.5 KiB/s', '100 %', '1.25', '10', '1.05']);
  });
});
