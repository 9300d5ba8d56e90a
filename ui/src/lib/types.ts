/**
 * Every event and every API answer the UI reads, once: the shape that a test can check and the type that follows
 * from it. docs/api.md says what they mean. Times are RFC 3339 unless a suffix says otherwise; -1 in token counts
 * means unknown.
 */
import { any, arr, bool, lit, nul, num, obj, opt, rec, str, union, type Infer } from './shape';

export const modelState = lit('stopped', 'starting', 'ready', 'stopping', 'shutdown');
export type ModelState = Infer<typeof modelState>;

export const capabilities = obj({
  vision: opt(bool),
  audio_transcriptions: opt(bool),
  audio_speech: opt(bool),
  image_generation: opt(bool),
  image_to_image: opt(bool),
  function_calling: opt(bool),
  reranker: opt(bool),
});
export type Capabilities = Infer<typeof capabilities>;
export type Capability = keyof Capabilities;

// GET /api/models -----------------------------------------------------------------------------------------------

export const lastError = obj({ message: str, exit_code: nul(num), output: nul(str), at: str });
export type LastError = Infer<typeof lastError>;

export const model = obj({
  id: str,
  name: str,
  description: str,
  aliases: arr(str),
  unlisted: bool,
  state: modelState,
  capabilities: opt(capabilities),
  context_length: opt(num),
  ttl_s: num,
  ttl_left_s: nul(num),
  in_flight: num,
  queued: num,
  pid: nul(num),
  cmd: str,
  proxy: str,
  ready_since: nul(str),
  memory: obj({ rss_bytes: nul(num), gpu_bytes: nul(num) }),
  load: obj({ elapsed_s: nul(num), typical_s: nul(num) }),
  waiting_for: arr(str),
  last_error: nul(lastError),
  group: str,
  removed: opt(bool),
});
export type Model = Infer<typeof model>;

export const modelsAnswer = obj({ models: arr(model) });
export type ModelsAnswer = Infer<typeof modelsAnswer>;

export const loadAnswer = obj({ model: str, state: modelState, load_s: opt(nul(num)) });

// Activity ------------------------------------------------------------------------------------------------------

export const tokens = obj({
  cache_tokens: num,
  draft_tokens: num,
  draft_acc_tokens: num,
  input_tokens: num,
  output_tokens: num,
  prompt_per_second: num,
  tokens_per_second: num,
});

export const activityRow = obj({
  id: num,
  timestamp: str,
  model: str,
  requested: str,
  client: str,
  req_path: str,
  resp_content_type: str,
  resp_status_code: num,
  tokens,
  duration_ms: num,
  ttfb_ms: nul(num),
  queue_ms: num,
  load_ms: num,
  has_capture: bool,
  error_msg: opt(str),
  metadata: opt(rec(any)),
});
export type ActivityRow = Infer<typeof activityRow>;

export const activityAnswer = obj({
  data: arr(activityRow),
  page: num,
  limit: num,
  total: num,
  total_pages: num,
});
export type ActivityAnswer = Infer<typeof activityAnswer>;

export const histogram = obj({ bins: arr(num), min: num, max: num, binSize: num, p50: num, p95: num, p99: num });
export type Histogram = Infer<typeof histogram>;

export const statsAnswer = obj({
  total_requests: num,
  total_input_tokens: num,
  total_output_tokens: num,
  total_cache_tokens: num,
  prompt_histogram: nul(histogram),
  gen_histogram: nul(histogram),
});
export type StatsAnswer = Infer<typeof statsAnswer>;

/** Bodies are base64. */
export const captureAnswer = obj({
  id: num,
  req_path: str,
  req_headers: rec(str),
  req_body: str,
  resp_headers: rec(str),
  resp_body: str,
  /** A body is only its beginning. */
  truncated: opt(bool),
});
export type CaptureAnswer = Infer<typeof captureAnswer>;

export const inflightState = lit('queued', 'loading', 'waiting', 'streaming');
export type InflightState = Infer<typeof inflightState>;

export const inflightRequest = obj({
  id: num,
  timestamp: str,
  model: str,
  /** The id or alias that the client wrote. */
  requested: str,
  req_path: str,
  method: str,
  req_headers: rec(str),
  remote_ip: str,
  resp_headers: rec(str),
  resp_bytes: num,
  resp_events: num,
  elapsed_ms: num,
  state: inflightState,
  queue_ms: num,
  load_ms: num,
  ttfb_ms: nul(num),
  metadata: opt(rec(any)),
});
export type InflightRequest = Infer<typeof inflightRequest>;

// Performance ---------------------------------------------------------------------------------------------------

/** One sample of the machine; counters of bytes count since the machine's start. */
export const systemSample = obj({
  timestamp: str,
  cpu_util_per_core: arr(num),
  mem_total_mb: num,
  mem_used_mb: num,
  mem_free_mb: num,
  swap_total_mb: num,
  swap_used_mb: num,
  load_avg_1: nul(num),
  load_avg_5: nul(num),
  load_avg_15: nul(num),
  net_io: arr(obj({ name: str, bytes_recv: num, bytes_sent: num })),
  disk_io: nul(obj({ read_bytes_per_s: num, write_bytes_per_s: num })),
  disks: arr(obj({ path: str, total_bytes: num, used_bytes: num, free_bytes: num })),
});
export type SystemSample = Infer<typeof systemSample>;

export const gpuSample = obj({
  timestamp: str,
  id: num,
  name: str,
  uuid: str,
  vendor: str,
  temp_c: nul(num),
  vram_temp_c: nul(num),
  gpu_util_pct: nul(num),
  mem_util_pct: nul(num),
  mem_used_mb: nul(num),
  mem_total_mb: nul(num),
  fan_speed_pct: nul(num),
  power_draw_w: nul(num),
  unified: bool,
});
export type GpuSample = Infer<typeof gpuSample>;

/** What a model's processes take; 100 % is one core. */
export const modelSample = obj({
  timestamp: str,
  model: str,
  cpu_percent: nul(num),
  rss_bytes: num,
  gpu_bytes: nul(num),
});
export type ModelSample = Infer<typeof modelSample>;

export const mark = obj({ timestamp: str, model: str, event: lit('loaded', 'unloaded', 'crashed') });
export type Mark = Infer<typeof mark>;

/** 503 with `{"enabled": false}` if it is switched off. */
export const performanceAnswer = obj({
  enabled: bool,
  every_s: num,
  sys_stats: arr(systemSample),
  gpu_stats: arr(gpuSample),
  models: arr(modelSample),
  marks: arr(mark),
});
export type PerformanceAnswer = Infer<typeof performanceAnswer>;

/** What the machine consists of, as found when the server started. */
export const hardwareAnswer = obj({
  schema_version: num,
  captured_at: str,
  capture: obj({ program: str, version: str }),
  architecture: str,
  operating_system: obj({ family: str, name: str, kernel: str }),
  environment: obj({ container: nul(str), wsl: bool }),
  cpu: obj({ name: str, cores: nul(num), threads: num }),
  memory: obj({ capacity_bytes: num }),
  accelerators: arr(
    obj({
      id: num,
      vendor: str,
      name: str,
      uuid: str,
      driver: nul(str),
      memory_bytes: nul(num),
      unified: bool,
    }),
  ),
});
export type Hardware = Infer<typeof hardwareAnswer>;

// Configuration -------------------------------------------------------------------------------------------------

export const problem = obj({ file: str, line: nul(num), key: str, message: str });
export type Problem = Infer<typeof problem>;

export const reload = obj({
  at: str,
  ok: bool,
  /** Models that drain and start anew with their next request. */
  changed: arr(str),
  /** Models that have new settings without a new process. */
  updated: arr(str),
  added: arr(str),
  removed: arr(str),
  unchanged: num,
  /** Top-level keys that are others now, those included that need a restart. */
  settings: arr(str),
  restart_needed: arr(str),
  errors: arr(problem),
});
export type Reload = Infer<typeof reload>;

export const configAnswer = obj({
  path: nul(str),
  dir: nul(str),
  /** All files in one. */
  text: str,
  /** As they were last read, whether they could be used or not. */
  files: arr(obj({ path: str, text: str })),
  effective: rec(any),
  warnings: arr(problem),
  errors: arr(problem),
  loaded_at: str,
  last_reload: nul(reload),
});
export type ConfigAnswer = Infer<typeof configAnswer>;

export const versionAnswer = obj({ version: str, commit: str, build_date: str });
export type VersionAnswer = Infer<typeof versionAnswer>;

// Events --------------------------------------------------------------------------------------------------------

export const modelStatus = obj({
  id: str,
  name: str,
  description: str,
  state: union(modelState, lit('')),
  unlisted: bool,
  peerID: str,
  aliases: opt(arr(str)),
  capabilities: opt(capabilities),
  context_length: opt(num),
  removed: opt(bool),
});
export type ModelStatus = Infer<typeof modelStatus>;

export const modelProgress = obj({
  id: str,
  state: modelState,
  elapsed_s: opt(num),
  typical_s: opt(num),
  queued: num,
  ttl_left_s: opt(num),
  waiting_for: opt(arr(str)),
});
export type ModelProgress = Infer<typeof modelProgress>;

export const logSource = lit('proxy', 'upstream');
export type LogSource = Infer<typeof logSource>;

export const inflightEvent = union(
  obj({ operation: lit('snapshot'), requests: opt(arr(inflightRequest)) }),
  obj({ operation: lit('upsert'), request: inflightRequest }),
  obj({ operation: lit('remove'), id: num }),
);
export type InflightEvent = Infer<typeof inflightEvent>;

/** The data of each event type, already decoded. */
export const eventData = {
  modelStatus: arr(modelStatus),
  modelProgress: arr(modelProgress),
  logData: obj({ source: logSource, data: str }),
  activity: obj({ id: num }),
  inflight: inflightEvent,
  uiConfig: obj({ activity: obj({ session_id: arr(str) }) }),
  profileChanged: obj({ active: nul(str) }),
  configReload: reload,
  /** For older dashboards; the UI reads `activity` instead. */
  metrics: any,
};
export type EventType = keyof typeof eventData;
export type EventData = { [T in EventType]: Infer<(typeof eventData)[T]> };
export type ServerEvent = { [T in EventType]: { type: T; data: EventData[T] } }[EventType];

export function isEventType(type: string): type is EventType {
  return Object.hasOwn(eventData, type);
}

/** What every error is answered with. */
export const errorAnswer = obj({
  src: str,
  error: obj({ message: str, type: str, param: nul(str), code: str }),
});
