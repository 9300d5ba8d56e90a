/** What the charts of the performance page show, as data: drawn by TimeChart, and told in words by the table; pure. */
import type { Point } from '../chart';
import { formatBytes, formatPercent, formatRate, plural, significant, UNKNOWN } from '../format';
import type { GpuSample, Hardware, SystemSample } from '../types';
import type { Moment } from './history';

const MIB = 1 << 20;

export type Unit = 'percent' | 'bytes' | 'rate' | 'celsius' | 'watts' | 'number';

export interface Line {
  label: string;
  points: Point[];
  color?: string;
  /** Filled down to zero: what the chart is about, if there are others beside it. */
  area?: boolean;
}

export interface Chart {
  id: string;
  title: string;
  /** What the scale ends at, or whom it is about. */
  note?: string;
  unit: Unit;
  lines: Line[];
  /** The top of the scale if it is fixed. */
  max?: number;
  /** Lines are layers, one upon the other. */
  stacked?: boolean;
}

const known = (value: number | null | undefined): value is number => typeof value === 'number' && Number.isFinite(value);

export const FORMATS: Record<Unit, (value: number | null | undefined) => string> = {
  percent: formatPercent,
  bytes: formatBytes,
  rate: formatRate,
  celsius: (value) => (known(value) ? `${Math.round(value)} °C` : UNKNOWN),
  watts: (value) => (known(value) ? `${significant(value)} W` : UNKNOWN),
  number: (value) => (known(value) ? significant(value) : UNKNOWN),
};

type Read = (moment: Moment) => number | null | undefined;

function line(label: string, moments: readonly Moment[], read: Read, color?: string): Line {
  const points = moments.map((moment) => ({ x: moment.at, y: read(moment) ?? null }));
  return color ? { label, points, color } : { label, points };
}

const told = ({ points }: Line) => points.some(({ y }) => y !== null);

/** Without the lines that nobody could tell anything of, and without charts that have none then. */
function withoutUntold(charts: readonly Chart[]): Chart[] {
  return charts.map((chart) => ({ ...chart, lines: chart.lines.filter(told) })).filter(({ lines }) => lines.length > 0);
}

function latest<T>(moments: readonly Moment[], read: (moment: Moment) => T | null | undefined): T | undefined {
  for (let i = moments.length - 1; i >= 0; i -= 1) {
    const found = read(moments[i] as Moment);
    if (found !== null && found !== undefined) return found;
  }
  return undefined;
}

export function meanOf(values: readonly number[]): number | null {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

// The machine ---------------------------------------------------------------------------------------------------

/** `nic`: whose traffic; `gap`: the longest step (ms) over which a rate says anything. */
export function machineCharts(moments: readonly Moment[], nic: string | undefined, gap: number): Chart[] {
  const now = latest(moments, ({ system }) => system);
  if (!now) return [];
  const system = (read: (sample: SystemSample) => number | null | undefined): Read => (moment) => moment.system && read(moment.system);
  const cores = Math.max(...moments.map((moment) => moment.system?.cpu_util_per_core.length ?? 0));
  const swap = line('Swap', moments, system((it) => it.swap_used_mb * MIB));
  const memory = now.mem_total_mb * MIB;
  const rates = traffic(moments, nic, gap);
  return withoutUntold([
    {
      id: 'cpu',
      title: 'CPU',
      unit: 'percent',
      max: 100,
      lines: [
        { ...line('All cores', moments, system((it) => meanOf(it.cpu_util_per_core))), area: true },
        ...(cores > 1
          ? [line('Busiest core', moments, system((it) => (it.cpu_util_per_core.length ? Math.max(...it.cpu_util_per_core) : null)))]
          : []),
      ],
    },
    {
      id: 'load',
      title: 'Load',
      ...(cores ? { note: plural(cores, 'core') } : {}),
      unit: 'number',
      lines: [
        line('1 min', moments, system((it) => it.load_avg_1)),
        line('5 min', moments, system((it) => it.load_avg_5)),
        line('15 min', moments, system((it) => it.load_avg_15)),
      ],
    },
    {
      id: 'memory',
      title: 'Memory',
      note: `of ${formatBytes(memory)}${now.swap_total_mb ? `, swap of ${formatBytes(now.swap_total_mb * MIB)}` : ', no swap'}`,
      unit: 'bytes',
      max: Math.max(memory, ...(now.swap_total_mb ? swap.points.map(({ y }) => y ?? 0) : [])),
      lines: [{ ...line('Used', moments, system((it) => it.mem_used_mb * MIB)), area: true }, ...(now.swap_total_mb ? [swap] : [])],
    },
    {
      id: 'disk',
      title: 'Disk',
      note: 'all disks together',
      unit: 'rate',
      lines: [
        line('Read', moments, system((it) => it.disk_io?.read_bytes_per_s)),
        line('Written', moments, system((it) => it.disk_io?.write_bytes_per_s)),
      ],
    },
    {
      id: 'network',
      title: 'Network',
      ...(nic ? { note: nic } : {}),
      unit: 'rate',
      lines: [
        { label: 'Received', points: rates.received },
        { label: 'Sent', points: rates.sent },
      ],
    },
  ]);
}

/** The network interfaces there are, the one with the most traffic since the machine's start first. */
export function interfaces(moments: readonly Moment[]): string[] {
  const now = latest(moments, ({ system }) => system?.net_io) ?? [];
  const loopback = (name: string) => /^lo\d*$/.test(name);
  return now
    .toSorted(
      (a, b) =>
        Number(loopback(a.name)) - Number(loopback(b.name)) ||
        b.bytes_recv + b.bytes_sent - (a.bytes_recv + a.bytes_sent) ||
        (a.name < b.name ? -1 : 1),
    )
    .map(({ name }) => name);
}

/** Bytes per second from counters: null for the first, after a gap, and where a counter began anew. */
export function traffic(moments: readonly Moment[], nic: string | undefined, gap: number): { received: Point[]; sent: Point[] } {
  const received: Point[] = [];
  const sent: Point[] = [];
  let before: { at: number; bytes_recv: number; bytes_sent: number } | null = null;
  for (const { at, system } of moments) {
    const counters = system?.net_io.find(({ name }) => name === nic);
    const seconds = before ? (at - before.at) / 1000 : 0;
    const rate = (key: 'bytes_recv' | 'bytes_sent') => {
      if (!counters || !before || seconds <= 0 || seconds * 1000 > gap) return null;
      const bytes = counters[key] - before[key];
      return bytes < 0 ? null : bytes / seconds;
    };
    received.push({ x: at, y: rate('bytes_recv') });
    sent.push({ x: at, y: rate('bytes_sent') });
    if (counters) before = { at, ...counters };
  }
  return { received, sent };
}

/** The file systems that models lie on, as they are at `at` (ms), or now. */
export function disksAt(moments: readonly Moment[], at: number | null): SystemSample['disks'] {
  return latest(at === null ? moments : moments.filter((moment) => moment.at <= at), ({ system }) => system?.disks) ?? [];
}

// GPUs ----------------------------------------------------------------------------------------------------------

export interface GpuIdentity {
  key: string;
  /** "GPU 0", or "AMD 0" if there are several makers' with the same numbers. */
  label: string;
  name: string;
  unified: boolean;
  vendor: string;
}

const keyOf = ({ vendor, id, uuid }: GpuSample) => `${vendor} ${id} ${uuid}`;
const VENDORS: Record<string, string> = { nvidia: 'NVIDIA', amd: 'AMD', apple: 'Apple' };

export function gpusOf(moments: readonly Moment[]): GpuIdentity[] {
  const found = new Map<string, GpuSample>();
  for (const { gpus } of moments) for (const gpu of gpus) found.set(keyOf(gpu), gpu);
  const list = [...found].sort(([, a], [, b]) => (a.vendor < b.vendor ? -1 : a.vendor > b.vendor ? 1 : a.id - b.id));
  const clash = new Set(list.map(([, { id }]) => id)).size < list.length;
  return list.map(([key, { vendor, id, name, unified }]) => ({
    key,
    label: `${clash ? (VENDORS[vendor] ?? vendor) : 'GPU'} ${id}`,
    name,
    unified,
    vendor,
  }));
}

/** The accelerators in words, equal ones together: "2 × NVIDIA H200", "141 GiB each, driver 550.54". */
export function acceleratorNames({ accelerators }: Hardware): { key: string; name: string; about: string }[] {
  const groups = new Map<string, { gpu: Hardware['accelerators'][number]; count: number }>();
  for (const gpu of accelerators) {
    const key = `${gpu.name} ${gpu.memory_bytes} ${gpu.driver}`;
    const group = groups.get(key);
    if (group) group.count += 1;
    else groups.set(key, { gpu, count: 1 });
  }
  return [...groups].map(([key, { gpu, count }]) => ({
    key,
    name: count > 1 ? `${count} × ${gpu.name}` : gpu.name,
    about: [
      gpu.memory_bytes && `${formatBytes(gpu.memory_bytes)}${count > 1 ? ' each' : ''}${gpu.unified ? ', shared with the machine' : ''}`,
      gpu.driver && `driver ${gpu.driver}`,
    ]
      .filter(Boolean)
      .join(', '),
  }));
}

const QUANTITIES = [
  { id: 'util', title: 'Utilisation', unit: 'percent', max: 100, read: (it: GpuSample) => it.gpu_util_pct },
  { id: 'memory', title: 'GPU memory', unit: 'bytes', read: (it: GpuSample) => it.mem_used_mb === null ? null : it.mem_used_mb * MIB },
  { id: 'memutil', title: 'Memory traffic', with: 'util', label: 'Memory traffic', unit: 'percent', max: 100, read: (it: GpuSample) => it.mem_util_pct },
  { id: 'temp', title: 'Temperature', unit: 'celsius', read: (it: GpuSample) => it.temp_c },
  { id: 'vram', title: 'Temperature of the memory', with: 'temp', label: 'Memory', unit: 'celsius', read: (it: GpuSample) => it.vram_temp_c },
  { id: 'power', title: 'Power', unit: 'watts', read: (it: GpuSample) => it.power_draw_w },
  { id: 'fan', title: 'Fan', unit: 'percent', max: 100, read: (it: GpuSample) => it.fan_speed_pct },
] as const;

/** A chart for each quantity, a line for each GPU; of a single GPU, what belongs together stands in one chart. */
export function gpuCharts(moments: readonly Moment[]): { charts: Chart[]; untold: string[] } {
  const gpus = gpusOf(moments);
  const totals = gpus.flatMap(({ key }) => latest(moments, (moment) => find(moment, key)?.mem_total_mb) ?? []);
  const charts: Chart[] = [];
  const untold: string[] = [];
  for (const quantity of QUANTITIES) {
    const lines = gpus.map(({ key, label }) =>
      line(label, moments, (moment) => {
        const sample = find(moment, key);
        return sample && quantity.read(sample);
      }),
    );
    if (!lines.some(told)) {
      if (!('with' in quantity)) untold.push(quantity.title.toLowerCase().replace('gpu', 'GPU'));
      continue;
    }
    const host = gpus.length === 1 && 'with' in quantity ? charts.find(({ id }) => id === `gpu-${quantity.with}`) : undefined;
    if (host && 'label' in quantity) {
      host.lines.push({ ...(lines[0] as Line), label: quantity.label });
      continue;
    }
    const chart: Chart = { id: `gpu-${quantity.id}`, title: quantity.title, unit: quantity.unit, lines: lines.filter(told) };
    if ('max' in quantity) chart.max = quantity.max;
    if (quantity.id === 'memory' && totals.length) {
      chart.max = Math.max(...totals) * MIB;
      const each = gpus.length > 1 && new Set(totals).size === 1 ? ' each' : '';
      if (gpus.length === 1 || each) chart.note = `of ${formatBytes(chart.max)}${each}${gpus.every(({ unified }) => unified) ? ', shared with the machine' : ''}`;
    }
    charts.push(chart);
  }
  return { charts, untold };
}

function find({ gpus }: Moment, key: string): GpuSample | undefined {
  return gpus.find((gpu) => keyOf(gpu) === key);
}

// Models --------------------------------------------------------------------------------------------------------

const COLOURS = 8;

/** Models in the order of their layers, with colours that stay as long as they are remembered. */
export interface Layer {
  label: string;
  ids: ReadonlySet<string>;
  color: string;
}

/** One layer for each model of these moments; beyond eight, the smaller ones are one together. */
export function modelLayers(moments: readonly Moment[]): Layer[] {
  const sizes = new Map<string, number>();
  for (const { models } of moments) {
    for (const { model, rss_bytes, gpu_bytes } of models) sizes.set(model, (sizes.get(model) ?? 0) + rss_bytes + (gpu_bytes ?? 0));
  }
  const ranked = [...sizes].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).map(([id]) => id);
  const single = ranked.length > COLOURS ? ranked.slice(0, COLOURS - 1) : ranked;
  const rest = ranked.slice(single.length);
  const layers: Layer[] = single
    .toSorted()
    .map((id, i) => ({ label: id, ids: new Set([id]), color: `var(--series-${i + 1})` }));
  if (rest.length) layers.push({ label: `${rest.length} others`, ids: new Set(rest), color: 'var(--muted)' });
  return layers;
}

export function modelCharts(moments: readonly Moment[], layers: readonly Layer[]): Chart[] {
  const total = gpusOf(moments)
    .filter(({ unified }) => !unified)
    .map(({ key }) => latest(moments, (moment) => find(moment, key)?.mem_total_mb) ?? 0)
    .reduce((sum, mb) => sum + mb * MIB, 0);
  const chart = (id: string, title: string, unit: Unit, read: (sample: Moment['models'][number]) => number | null): Chart => ({
    id,
    title,
    unit,
    stacked: true,
    lines: layers
      .filter(({ ids }) => moments.some(({ models }) => models.some((sample) => ids.has(sample.model))))
      .map(({ label, ids, color }) =>
        // Who is not there takes nothing.
        line(label, moments, ({ models }) => models.reduce((sum, sample) => sum + (ids.has(sample.model) ? (read(sample) ?? 0) : 0), 0), color),
      ),
  });
  const gpu = chart('model-gpu', 'GPU memory by model', 'bytes', ({ gpu_bytes }) => gpu_bytes);
  if (total) Object.assign(gpu, { max: total, note: `of ${formatBytes(total)}` });
  const known = moments.some(({ models }) => models.some(({ gpu_bytes }) => gpu_bytes !== null));
  const charts = [
    ...(known ? [gpu] : []),
    chart('model-rss', 'Main memory by model', 'bytes', ({ rss_bytes }) => rss_bytes),
    { ...chart('model-cpu', 'CPU by model', 'percent', ({ cpu_percent }) => cpu_percent), note: '100 % is one core' },
  ];
  return charts.filter(({ lines }) => lines.length > 0);
}

// In words ------------------------------------------------------------------------------------------------------

export interface Figure {
  id: string;
  chart: string;
  label: string;
  now: string;
  low: string;
  mean: string;
  high: string;
}

/** Each line as a row: its value now, and over the time from `from` on. */
export function figures(charts: readonly Chart[], from: number): Figure[] {
  return charts.flatMap((chart) =>
    chart.lines.map(({ label, points }, i) => {
      const values = points.flatMap(({ x, y }) => (y === null || x < from ? [] : [y]));
      const show = FORMATS[chart.unit];
      return {
        id: `${chart.id} ${i}`,
        chart: chart.title,
        label,
        now: show(points.at(-1)?.y),
        low: show(values.length ? Math.min(...values) : null),
        mean: show(meanOf(values)),
        high: show(values.length ? Math.max(...values) : null),
      };
    }),
  );
}

// Cores ---------------------------------------------------------------------------------------------------------

/**
 * How busy each core is, for a picture of `width` columns from `from` to `to`: row by row, NaN where nobody knows. A sample
 * stands for the time since the one before (`every` ms, at most `gap`); a column with several has their mean.
 */
export function coreGrid(
  moments: readonly Moment[],
  { from, to, width, everyMs, gap }: { from: number; to: number; width: number; everyMs: number; gap: number },
): { cores: number; values: Float32Array } {
  const cores = Math.max(0, ...moments.map(({ system }) => system?.cpu_util_per_core.length ?? 0));
  const sums = new Float32Array(width * cores);
  const counts = new Uint16Array(width);
  const column = (at: number) => Math.floor(((at - from) / (to - from)) * width);
  let before: number | null = null;
  for (const { at, system } of moments) {
    const busy = system?.cpu_util_per_core ?? [];
    const begin: number = before !== null && at - before <= gap ? before : at - everyMs;
    before = at;
    if (!busy.length) continue;
    const first = Math.max(0, column(begin) + (column(begin) < column(at) ? 1 : 0));
    for (let x = first; x <= Math.min(width - 1, column(at)); x += 1) {
      counts[x] = (counts[x] as number) + 1;
      for (let core = 0; core < cores; core += 1) {
        const place = core * width + x;
        sums[place] = (sums[place] as number) + (busy[core] ?? NaN);
      }
    }
  }
  for (let i = 0; i < sums.length; i += 1) sums[i] = counts[i % width] ? (sums[i] as number) / (counts[i % width] as number) : NaN;
  return { cores, values: sums };
}
