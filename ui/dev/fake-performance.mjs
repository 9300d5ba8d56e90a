// An hour of a machine for fake-server.mjs, which goes on. GPUS=0…, CORES=…, EVERY_S=…; PERFORMANCE=off switches it off.
const EVERY_S = Number(process.env.EVERY_S ?? 5);
const CORES = Number(process.env.CORES ?? 24);
const GPUS = Number(process.env.GPUS ?? 2);
const GIB = 2 ** 30;
const answer = { enabled: true, every_s: EVERY_S, sys_stats: [], gpu_stats: [], models: [], marks: [] };
const start = Date.now() - 3_600_000;
const counters = { recv: 3e11, sent: 8e10 };
const noise = (size) => (Math.random() - 0.5) * size;
const within = (value, low, high) => Math.round(Math.min(high, Math.max(low, value)) * 10) / 10;
const stamp = (at) => new Date(at).toISOString();

// model: [name, loaded at, gone at (share of the hour), GPU GiB, RSS GiB, how it ended]
const STAYS = [
  ['bge-m3', 0, 99, 2.3, 0.9, ''],
  ['gemma-3-27b', 0.05, 0.38, 22, 2.1, 'unloaded'],
  ['qwen2.5-coder-32b', 0.392, 0.61, 27, 2.4, 'crashed'],
  ['qwen2.5-coder-32b', 0.64, 0.78, 27, 2.4, 'unloaded'],
  ['gemma-3-27b', 0.795, 99, 22, 2.1, ''],
];

function sample(at) {
  const timestamp = stamp(at);
  const share = (at - start) / 3_600_000;
  const running = STAYS.filter(([, from, to]) => share >= from && share < to);
  const work = running.length > 1 ? 0.5 + 0.5 * Math.sin(share * 60) : 0.06;
  const busy = Array.from({ length: CORES }, (_, i) => within(8 + noise(10) + (i % 8 < 3 ? 85 * work : 14 * work) + (i === 5 && share % 0.2 < 0.02 ? 80 : 0), 0, 100));
  counters.recv += (1.2e6 * work + Math.random() * 2e5) * EVERY_S;
  counters.sent += (9e6 * work + Math.random() * 1e5) * EVERY_S;
  const used = 21 * 1024 + running.reduce((sum, [, , , , rss]) => sum + rss * 1024, 0) + noise(300);
  const loading = STAYS.some(([, from]) => Math.abs(share - from) < 0.006);
  answer.sys_stats.push({
    timestamp, cpu_util_per_core: busy, mem_total_mb: 128_711, mem_used_mb: Math.round(used), mem_free_mb: Math.round(128_711 - used),
    swap_total_mb: 8191, swap_used_mb: 412, load_avg_1: within(CORES * 0.5 * work + Math.random(), 0, 99), load_avg_5: within(CORES * 0.22 + Math.sin(share * 9), 0, 99), load_avg_15: within(CORES * 0.2 + Math.sin(share * 4) / 2, 0, 99),
    net_io: [{ name: 'docker0', bytes_recv: 1e9, bytes_sent: 2e9 }, { name: 'enp5s0', bytes_recv: Math.round(counters.recv), bytes_sent: Math.round(counters.sent) }, { name: 'lo', bytes_recv: 9e12, bytes_sent: 9e12 }],
    disk_io: { read_bytes_per_s: Math.round(loading ? 2.4e9 + noise(4e8) : Math.random() * 9e5), write_bytes_per_s: Math.round(Math.random() * 4e6) },
    disks: [{ path: '/', total_bytes: 480 * GIB, used_bytes: 210 * GIB, free_bytes: 246 * GIB }, { path: '/models', total_bytes: 3800 * GIB, used_bytes: 3655 * GIB, free_bytes: 145 * GIB }],
  });
  for (let id = 0; id < GPUS; id += 1) {
    const mine = running.map(([, , , gpu]) => gpu / GPUS);
    const mem = Math.min(24_500, 600 + mine.reduce((sum, gib) => sum + gib * 1024, 0));
    const util = within(100 * work * (id ? 0.82 : 1) + noise(12), 0, 100);
    answer.gpu_stats.push({
      timestamp, id, name: 'NVIDIA GeForce RTX 3090', uuid: `GPU-${id}`, vendor: 'nvidia', temp_c: Math.round(41 + util * 0.3 + id * 4), vram_temp_c: null,
      gpu_util_pct: util, mem_util_pct: within(util * 0.7 + noise(6), 0, 100), mem_used_mb: Math.round(mem), mem_total_mb: 24_576, fan_speed_pct: Math.round(30 + util * 0.4), power_draw_w: within(28 + util * 3 + noise(20), 20, 350), unified: false,
    });
  }
  for (const [model, , , gpu, rss] of running) {
    answer.models.push({ timestamp, model, cpu_percent: within(model === 'bge-m3' ? 4 + noise(3) : 240 * work + noise(20), 0, 9999), rss_bytes: Math.round(rss * GIB), gpu_bytes: GPUS ? Math.round(gpu * GIB) : null });
  }
}

let next = start;
function grow() {
  for (; next <= Date.now(); next += EVERY_S * 1000) {
    const share = (next - start) / 3_600_000;
    if (share > 0.5 && share < 0.545) continue; // nobody measured
    sample(next);
  }
}
for (const [model, from, to, , , end] of STAYS) {
  if (from) answer.marks.push({ timestamp: stamp(start + from * 3_600_000), model, event: 'loaded' });
  if (end) answer.marks.push({ timestamp: stamp(start + to * 3_600_000), model, event: end });
}
answer.marks.sort((a, b) => (a.timestamp < b.timestamp ? -1 : 1));

/** GET /api/performance: what came later than `after` (RFC 3339), if that is given. */
export function performance(after) {
  if (process.env.PERFORMANCE === 'off') return { enabled: false };
  grow();
  const news = ({ timestamp }) => !after || timestamp > after;
  const lists = ['sys_stats', 'gpu_stats', 'models', 'marks'].map((kind) => [kind, answer[kind].filter(news)]);
  return { ...answer, ...Object.fromEntries(lists) };
}

/** GET /api/hardware. */
export const hardware = {
  schema_version: 1, captured_at: stamp(start), capture: { program: 'llamaswap', version: '0.1.0' }, architecture: 'x86_64',
  operating_system: { family: 'linux', name: 'Debian GNU/Linux 12 (bookworm)', kernel: '6.1.0-18-amd64' }, environment: { container: null, wsl: false },
  cpu: { name: 'AMD Ryzen Threadripper PRO 5945WX 12-Cores', cores: CORES / 2, threads: CORES }, memory: { capacity_bytes: 128_711 * 2 ** 20 },
  accelerators: Array.from({ length: GPUS }, (_, id) => ({ id, vendor: 'nvidia', name: 'NVIDIA GeForce RTX 3090', uuid: `GPU-${id}`, driver: '550.54.15', memory_bytes: 24 * GIB, unified: false })),
};
