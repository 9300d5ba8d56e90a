// A small world for fake-server.mjs: models that load and unload, requests that come and go, logs that grow.

const now = () => new Date().toISOString();
const pick = (list) => list[Math.floor(Math.random() * list.length)];

function model(id, fields = {}) {
  return {
    id, name: '', description: '', aliases: [], unlisted: false, state: 'stopped', ttl_s: 300, ttl_left_s: null,
    in_flight: 0, queued: 0, pid: null,
    cmd: `llama-server --port 5800 -m /models/${id}.gguf \\\n  --ctx-size 32768 -ngl 99 --flash-attn on \\\n  --cache-type-k q8_0 --cache-type-v q8_0`,
    proxy: 'http://localhost:5800', ready_since: null, memory: { rss_bytes: null, gpu_bytes: null },
    load: { elapsed_s: null, typical_s: 9 }, waiting_for: [], last_error: null, group: '(default)', context_length: 32768, ...fields,
  };
}

export const models = [
  model('bge-m3', { name: 'BGE M3', description: 'Embeddings, many languages', aliases: ['embed'], ttl_s: 0, group: 'always', capabilities: {}, context_length: 8192 }),
  model('bge-reranker-v2', { name: 'BGE Reranker', capabilities: { reranker: true }, group: 'always' }),
  model('gemma-3-27b', { name: 'Gemma 3 27B', description: 'Vision, long context', aliases: ['gemma', 'vision'], capabilities: { vision: true, function_calling: true }, context_length: 131072 }),
  model('gpt-oss-120b', { name: 'GPT-OSS 120B', description: 'Largest that fits; reasons before it answers', aliases: ['gpt-4o', 'large'], capabilities: { function_calling: true }, load: { elapsed_s: null, typical_s: 41 } }),
  model('kokoro-82m', { name: 'Kokoro', description: 'Speech', aliases: ['tts-1'], capabilities: { audio_speech: true } }),
  model('qwen2.5-coder-32b', { name: 'Qwen 2.5 Coder 32B', description: 'Code, fill in the middle', aliases: ['coder'], capabilities: { function_calling: true } }),
  model('qwen3-0.6b-draft', { unlisted: true }),
  model('unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF:Q4_K_M', {
    description: 'Does not start: its file is missing',
    last_error: { message: 'unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF:Q4_K_M did not start: the process exited with code 1', exit_code: 1, at: new Date(Date.now() - 400_000).toISOString(),
      output: 'ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA H200, compute capability 9.0, VMM: yes\n0.00.081.113 E gguf_init_from_file: failed to open GGUF file (No such file or directory)\n0.00.081.220 E llama_model_load: error loading model\n' },
  }),
  model('whisper-large-v3', { name: 'Whisper large v3', description: 'Transcription', capabilities: { audio_transcriptions: true }, aliases: ['whisper-1'] }),
];
export const peers = [{ id: 'big/deepseek-v3', name: 'DeepSeek V3', description: 'On the big machine', state: '', unlisted: false, peerID: 'big' }];
export const inflight = new Map();
export const activity = [];
let nextId = 1;

/** `tell(type, data)` sends an event to everybody. */
export function world(tell) {
  const find = (id) => models.find((m) => m.id === id || m.aliases.includes(id));
  const status = () => [...models.map(({ id, name, description, state, unlisted, aliases, capabilities, context_length }) => ({ id, name, description, state, unlisted, peerID: '', aliases, capabilities, context_length })), ...peers];
  const progress = () => models.filter((m) => m.state !== 'stopped' || m.queued).map((m) => ({ id: m.id, state: m.state, queued: m.queued, ...(m.load.elapsed_s === null ? {} : { elapsed_s: m.load.elapsed_s }), typical_s: m.load.typical_s, ...(m.ttl_left_s === null ? {} : { ttl_left_s: m.ttl_left_s }), waiting_for: m.waiting_for }));
  const log = (source, text) => tell('logData', { source, data: text });
  const set = (m, state) => {
    Object.assign(m, { state, load: { ...m.load, elapsed_s: state === 'starting' ? 0 : null }, ttl_left_s: null });
    if (state === 'ready') Object.assign(m, { pid: 4000 + Math.floor(Math.random() * 999), ready_since: now(), last_error: null, ttl_left_s: m.ttl_s || null, memory: { rss_bytes: 1.2e9, gpu_bytes: 18.4e9 + Math.random() * 4e9 } });
    if (state === 'stopped') Object.assign(m, { pid: null, ready_since: null, memory: { rss_bytes: null, gpu_bytes: null } });
    log('proxy', `[INFO] ${m.id} is ${state}\n`);
    tell('modelStatus', status());
    tell('modelProgress', progress());
  };
  const load = (m) => {
    if (m.state !== 'stopped') return;
    set(m, 'starting');
    setTimeout(() => {
      if (m.state !== 'starting') return;
      if (m.id.startsWith('unsloth')) {
        set(m, 'stopped');
        m.last_error = { message: `${m.id} did not start: the process exited with code 1`, exit_code: 1, output: 'error: no such file\n', at: now() };
        tell('modelStatus', status());
      } else set(m, 'ready');
    }, (m.load.typical_s ?? 5) * 1000);
  };
  const unload = (m) => {
    if (m.state !== 'starting' && m.state !== 'ready') return;
    set(m, 'stopping');
    setTimeout(() => set(m, 'stopped'), 700);
  };

  const start = (m) => {
    const id = nextId++;
    const request = { id, timestamp: now(), model: m.id, requested: m.id, req_path: pick(['/v1/chat/completions', '/v1/messages', '/v1/responses']), method: 'POST', req_headers: { 'User-Agent': 'fake/1.0' }, remote_ip: '127.0.0.1', resp_headers: { 'Content-Type': 'text/event-stream' }, resp_bytes: 0, resp_events: 0, elapsed_ms: 0, state: 'waiting', queue_ms: 0, load_ms: 0, ttfb_ms: null };
    inflight.set(id, request);
    tell('inflight', { operation: 'upsert', request });
    request.end = Date.now() + 4000 + Math.random() * 16000;
  };
  const finish = (request, code = 200) => {
    inflight.delete(request.id);
    const output = Math.floor(request.resp_bytes / 200);
    activity.unshift({ id: request.id, timestamp: request.timestamp, model: request.model, requested: request.model, client: '127.0.0.1', req_path: request.req_path, resp_content_type: 'text/event-stream', resp_status_code: code,
      tokens: { cache_tokens: Math.floor(Math.random() * 900), draft_tokens: -1, draft_acc_tokens: -1, input_tokens: 900 + Math.floor(Math.random() * 4000), output_tokens: output, prompt_per_second: 2200 + Math.random() * 900, tokens_per_second: 70 + Math.random() * 40 },
      duration_ms: request.elapsed_ms, ttfb_ms: request.ttfb_ms, queue_ms: 0, load_ms: 0, has_capture: true, ...(code === 200 ? {} : { error_msg: 'the client left' }) });
    activity.length = Math.min(activity.length, 2000);
    tell('inflight', { operation: 'remove', id: request.id });
    tell('activity', { id: request.id });
  };

  const rate = Number(process.env.LOG_LINES_PER_S ?? 4);
  const streams = Number(process.env.STREAMS ?? 3);
  setInterval(() => {
    const lines = Array.from({ length: Math.max(1, rate / 4) }, () => `\x1b[32mslot\x1b[0m update_slots: id ${pick([0, 1, 2, 3])} | task ${nextId} | n_past = ${Math.floor(Math.random() * 9000)}, n_tokens = ${Math.floor(Math.random() * 512)}, progress = \x1b[33m${Math.random().toFixed(3)}\x1b[0m\n`);
    log('upstream', lines.join(''));
    if (Math.random() < 0.1) log('proxy', pick(['[WARN] a client at 127.0.0.1 reads slowly; its stream waits\n', '[DEBUG] kept 3 idle connections\n', '[ERROR] gemma-3-27b: connection refused\n']));
    const ready = models.filter((m) => m.state === 'ready');
    if (ready.length && inflight.size < streams && (streams > 8 || Math.random() < 0.15)) start(pick(ready));
    for (const request of inflight.values()) {
      request.elapsed_ms = Date.now() - Date.parse(request.timestamp);
      if (request.elapsed_ms > 600) {
        request.state = 'streaming';
        request.ttfb_ms ??= request.elapsed_ms;
        request.resp_bytes += 3000 + Math.floor(Math.random() * 3000);
        request.resp_events = Math.floor(request.resp_bytes / 200);
      }
      const { end, ...told } = request;
      if (Date.now() > end) finish(request);
      else tell('inflight', { operation: 'upsert', request: told });
    }
  }, 250);
  setInterval(() => {
    for (const m of models) {
      if (m.load.elapsed_s !== null) m.load.elapsed_s += 1;
      const busy = [...inflight.values()].some((request) => request.model === m.id);
      if (m.ttl_left_s !== null) m.ttl_left_s = busy ? m.ttl_s : Math.max(0, m.ttl_left_s - 1);
    }
    if (models.some((m) => m.state === 'starting' || m.queued)) tell('modelProgress', progress());
  }, 1000);

  for (const id of ['bge-m3', 'gemma-3-27b']) set(find(id), 'ready');
  load(find('gpt-oss-120b'));
  find('gpt-oss-120b').load.elapsed_s = 17;
  Object.assign(find('qwen2.5-coder-32b'), { queued: 2, waiting_for: ['gemma-3-27b'] });
  for (let i = 0; i < 60; i += 1) {
    start(find(pick(['gemma-3-27b', 'bge-m3'])));
    const request = inflight.get(nextId - 1);
    Object.assign(request, { resp_bytes: 20_000 + Math.random() * 90_000, elapsed_ms: 3000 + Math.random() * 9000, ttfb_ms: 90 + Math.random() * 400, timestamp: new Date(Date.now() - (60 - i) * 47_000).toISOString() });
    finish(request, i % 17 ? 200 : 499);
  }
  return { find, status, progress, load, unload, finish };
}
