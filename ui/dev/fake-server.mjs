// A stand-in for llamaswap on 127.0.0.1:8080 ($PORT): enough of its API to build pages against. `npm run fake`.
// KEY=secret asks for that API key. UI_OUT=DIR serves a built UI from there. LOG_LINES_PER_S, STREAMS: more traffic.
// PERFORMANCE=off, GPUS=0, CORES=128, EVERY_S=30: another machine (fake-performance.mjs).
import { existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { join, normalize } from 'node:path';
import { answer } from './fake-answers.mjs';
import { activity, inflight, models, world } from './fake-data.mjs';
import { hardware, performance } from './fake-performance.mjs';

const PORT = Number(process.env.PORT ?? 8080);
const KEY = process.env.KEY ?? '';
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob: data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";
const subscribers = new Set();
const history = { proxy: '', upstream: '' };
const envelope = (type, data) => `event:message\ndata:${JSON.stringify({ type, data: JSON.stringify(data) })}\n\n`;

const w = world((type, data) => {
  if (type === 'logData') history[data.source] = (history[data.source] + data.data).slice(-102_400);
  for (const response of subscribers) response.write(envelope(type, data));
});

let config = readConfig(true);
function readConfig(bad) {
  const reload = { at: new Date(Date.now() - 60_000).toISOString(), ok: !bad, changed: bad ? [] : ['gemma-3-27b'], added: [], removed: [], updated: [], settings: bad ? [] : ['startPort'], unchanged: bad ? 0 : 8, restart_needed: bad ? [] : ['startPort'], errors: bad ? [{ file: 'config.yaml', line: 14, key: 'models.gemma-3-27b.ttl', message: 'must be a number of seconds, not "5 min"' }] : [] };
  const answer = {
    path: '/etc/llamaswap/config.yaml', dir: null, loaded_at: new Date(Date.now() - 7_200_000).toISOString(), last_reload: reload,
    text: `# Models of the machine in the cellar.\nhealthCheckTimeout: 300\nlogLevel: info\napiKeys:\n  - "********"\n\nmacros:\n  server: llama-server --port \${PORT} -ngl 99\n\nmodels:\n  gemma-3-27b:\n    name: Gemma 3 27B\n    aliases: [gemma, vision]\n    ttl: ${bad ? '5 min' : '300'}\n    cmd: |\n      \${server}\n      -m /models/gemma-3-27b.gguf\n  bge-m3:\n    cmd: \${server} -m /models/bge-m3.gguf --embeddings\n    ttl: 0\n    sendloadingstate: true\n\ngroups:\n  always:\n    persistent: true\n    swap: false\n    members: [bge-m3]\n`,
    effective: { healthCheckTimeout: 300, logLevel: 'info', apiKeys: ['********'], models: { 'bge-m3': { cmd: 'llama-server --port 5800 -ngl 99 -m /models/bge-m3.gguf --embeddings', ttl: 0, aliases: [] }, 'gemma-3-27b': { cmd: 'llama-server --port 5801 -ngl 99\n-m /models/gemma-3-27b.gguf', aliases: ['gemma', 'vision'], ttl: 300 } }, groups: { always: { persistent: true, swap: false, members: ['bge-m3'] } } },
    warnings: [{ file: 'config.yaml', line: 21, key: 'models.bge-m3.sendloadingstate', message: 'is not known here and ignored; did you mean sendLoadingState?' }],
    errors: reload.errors,
  };
  answer.files = [{ path: 'config.yaml', text: answer.text }, { path: 'more.yaml', text: '# nothing here yet\n' }];
  return answer;
}

function json(response, value, status = 200) {
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(value));
}
const failure = (response, status, message) => json(response, { src: 'llama-swap', error: { message, type: 'x', param: null, code: 'x' } }, status);

function events(response) {
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  for (const source of ['proxy', 'upstream']) response.write(envelope('logData', { source, data: history[source] }));
  response.write(envelope('modelStatus', w.status()));
  response.write(envelope('uiConfig', { activity: { session_id: ['X-Session-ID'] } }));
  response.write(envelope('profileChanged', { active: null }));
  response.write(envelope('inflight', { operation: 'snapshot', requests: [...inflight.values()] }));
  response.write(envelope('modelProgress', w.progress()));
  subscribers.add(response);
  response.on('close', () => subscribers.delete(response));
}

function rows(query) {
  const limit = Number(query.get('limit') ?? 25);
  const page = Number(query.get('page') ?? 1);
  const names = query.getAll('model');
  const status = query.get('status') ?? '';
  const [min, max] = [Number(query.get('min_id') ?? 0), Number(query.get('max_id') ?? 1e9)];
  const found = activity.filter((row) => (!names.length || names.includes(row.model)) && row.id >= min && row.id <= max)
    .filter((row) => !status || (status === 'ok' ? row.resp_status_code < 400 : status === 'error' ? row.resp_status_code >= 400 : String(row.resp_status_code).startsWith(status.replaceAll('x', ''))));
  const sorts = { id: (row) => row.id, duration: (row) => row.duration_ms, prompt: (row) => row.tokens.input_tokens, generated: (row) => row.tokens.output_tokens, gen_speed: (row) => row.tokens.tokens_per_second, prompt_speed: (row) => row.tokens.prompt_per_second };
  const by = sorts[query.get('sort')] ?? sorts.id;
  found.sort((a, b) => (query.get('order') === 'asc' ? 1 : -1) * (by(a) - by(b)));
  return { data: found.slice((page - 1) * limit, page * limit), page, limit, total: found.length, total_pages: Math.ceil(found.length / limit) };
}

const TYPES = { html: 'text/html; charset=utf-8', js: 'text/javascript', css: 'text/css' };
function page(path, response) {
  const root = process.env.UI_OUT;
  if (!root) return failure(response, 404, 'set UI_OUT to serve a built UI');
  let file = normalize(join(root, path.slice(4)));
  if (!file.startsWith(root) || !existsSync(file) || !statSync(file).isFile()) {
    if (path.startsWith('/ui/assets/')) return failure(response, 404, 'not found');
    file = join(root, 'index.html');
  }
  response.writeHead(200, { 'Content-Type': TYPES[file.split('.').pop()] ?? 'text/plain', 'Content-Security-Policy': CSP }).end(readFileSync(file));
}

createServer(async (request, response) => {
  const url = new URL(request.url, 'http://x');
  const path = decodeURIComponent(url.pathname);
  if (path === '/') return response.writeHead(302, { Location: '/ui/' }).end();
  if (path.startsWith('/ui')) return page(path, response);
  if (path === '/favicon.ico') return response.writeHead(200, { 'Content-Type': 'image/svg+xml' }).end('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"/>');
  if (KEY && request.headers.authorization !== `Bearer ${KEY}`) return failure(response, 401, 'unauthorized: invalid or missing API key');
  const after = (prefix) => (path.startsWith(prefix) ? path.slice(prefix.length) : null);
  const id = after('/api/models/load/') ?? after('/api/models/unload/');
  if (path === '/api/events') return events(response);
  if (path === '/api/models') return json(response, { models });
  if (path === '/api/version') return json(response, { version: '0.1.0', commit: 'fake', build_date: 'unknown' });
  if (path === '/api/metrics/activity') return json(response, rows(url.searchParams));
  if (path === '/api/metrics/stats') {
    const found = rows(new URLSearchParams([['limit', '9999'], ...url.searchParams.getAll('model').map((m) => ['model', m])])).data;
    const sum = (key) => found.reduce((total, row) => total + Math.max(0, row.tokens[key]), 0);
    const histogram = { bins: [1, 4, 9, 12, 7, 3], min: 60, max: 120, binSize: 10, p50: 88, p95: 110, p99: 117 };
    return json(response, { total_requests: found.length, total_input_tokens: sum('input_tokens'), total_output_tokens: sum('output_tokens'), total_cache_tokens: sum('cache_tokens'), prompt_histogram: histogram, gen_histogram: histogram });
  }
  if (path.startsWith('/api/captures/')) {
    const base64 = (value) => Buffer.from(value).toString('base64');
    return json(response, { id: Number(after('/api/captures/')), req_path: '/v1/chat/completions', req_headers: { 'Content-Type': 'application/json' }, req_body: base64(JSON.stringify({ model: 'gemma', stream: true, messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'Why is the sky blue?' }] })), resp_headers: { 'Content-Type': 'text/event-stream' }, resp_body: base64('data: {"choices":[{"delta":{"content":"Rayleigh "}}]}\n\ndata: {"choices":[{"delta":{"content":"scattering."}}]}\n\ndata: [DONE]\n\n') });
  }
  if (path === '/api/performance') {
    const answer = performance(url.searchParams.get('after'));
    return json(response, answer, answer.enabled ? 200 : 503);
  }
  if (path === '/api/hardware') return json(response, hardware);
  if (path === '/api/config') return json(response, config);
  if (path === '/api/config/reload') {
    config = readConfig(config.last_reload.ok);
    for (const subscriber of subscribers) subscriber.write(envelope('configReload', config.last_reload));
    return config.last_reload.ok ? json(response, config.last_reload) : failure(response, 400, config.errors[0].message);
  }
  if (after('/api/inflight/')) {
    const found = inflight.get(Number(path.split('/')[3]));
    if (!found) return failure(response, 404, 'inflight request not found');
    w.finish(found, 499);
    return json(response, { msg: 'ok' });
  }
  if (path === '/api/models/unload') {
    models.forEach(w.unload);
    return json(response, { msg: 'ok' });
  }
  if (id !== null) {
    const model = w.find(id);
    if (!model) return failure(response, 404, `there is no model ${id}`);
    if (path.startsWith('/api/models/load/')) w.load(model);
    else w.unload(model);
    return json(response, { model: model.id, state: model.state }, 202);
  }
  if (path.startsWith('/logs/stream')) {
    response.writeHead(200, { 'Content-Type': 'text/plain' }).write(history.upstream || 'nothing\n');
    const timer = setInterval(() => response.write(`one line of ${path.slice(13)} at ${new Date().toISOString()}\n`), 500);
    return response.on('close', () => clearInterval(timer));
  }
  if (path.startsWith('/v1/') && request.method === 'POST') {
    const body = Buffer.concat(await request.toArray()).toString();
    if (body.startsWith('{') && answer(path, JSON.parse(body), response, { json, failure })) return;
  }
  return failure(response, 404, '404 page not found');
}).listen(PORT, '127.0.0.1', () => console.log(`a fake llamaswap at http://127.0.0.1:${PORT}`));
