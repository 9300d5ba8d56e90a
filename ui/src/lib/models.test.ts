import { describe, expect, it } from 'vitest';
import { capabilityList, loadElapsed, matchesSearch, ttlLeft, withProgress, withStatus } from './models';
import type { ModelStatus } from './types';
import { highlight, toYaml } from './yaml';

const status = (id: string, state: ModelStatus['state'], more: Partial<ModelStatus> = {}): ModelStatus => ({
  id, state, name: '', description: '', unlisted: false, peerID: '', ...more,
});

describe('what is known of models', () => {
  const known = withStatus([], [status('b', 'stopped'), status('a', 'ready', { aliases: ['first'] }), status('p/x', '', { peerID: 'p' })], 1000);

  it('comes from the status, peers aside, in order', () => {
    expect(known.map(({ id, state, aliases }) => [id, state, aliases])).toEqual([['a', 'ready', ['first']], ['b', 'stopped', []]]);
  });
  it('keeps what a status does not tell, and forgets models that are gone', () => {
    const richer = known.map((model) => ({ ...model, cmd: 'run', pid: 7 }));
    expect(withStatus(richer, [status('a', 'ready')], 2000)).toMatchObject([{ id: 'a', cmd: 'run', pid: 7, asOf: 1000 }]);
  });
  it('drops times of a state that is over', () => {
    const busy = known.map((model) => ({ ...model, pid: 7, ttl_left_s: 9 }));
    const [a, b] = withStatus(busy, [status('a', 'stopped'), status('b', 'starting')], 5000);
    expect(a).toMatchObject({ pid: null, ttl_left_s: null });
    expect(b?.load.elapsed_s).toBe(0);
    expect(loadElapsed(b as never, 7500)).toBe(2.5);
  });
  it('follows progress', () => {
    const progress = [
      { id: 'a', state: 'ready' as const, queued: 0, ttl_left_s: 30 },
      { id: 'b', state: 'stopped' as const, queued: 2, waiting_for: ['a'] },
    ];
    const [a, b] = withProgress(known, progress, 10_000);
    expect(ttlLeft(a as never, 12_000, false)).toBe(28);
    expect(ttlLeft(a as never, 99_000, false)).toBe(0);
    expect(ttlLeft(a as never, 12_000, true)).toBeNull();
    expect(b).toMatchObject({ queued: 2, waiting_for: ['a'] });
    // Nobody waits for it any more: it is no longer told of.
    expect(withProgress([a as never, b as never], [], 0)[1]).toMatchObject({ queued: 0, waiting_for: [] });
  });
  it('is searched word by word', () => {
    const model = { id: 'org/qwen', name: 'Qwen Coder', description: 'for code', aliases: ['gpt-4'] };
    expect([matchesSearch(model, 'COD gpt'), matchesSearch(model, ''), matchesSearch(model, 'coder llama')]).toEqual([true, true, false]);
    expect(capabilityList({ capabilities: { vision: true, reranker: false } })).toEqual(['vision']);
  });
});

describe('YAML', () => {
  const kinds = (line: string) => highlight(line).filter(({ kind }) => kind !== 'plain').map(({ kind, text }) => `${kind} ${text}`);

  it('is coloured and loses nothing', () => {
    expect(kinds('  ttl: 300 # seconds')).toEqual(['key ttl', 'number 300', 'comment # seconds']);
    expect(kinds('- cmd: server -p ${PORT} "a#b" c#d')).toEqual(['key cmd', 'macro ${PORT}', 'string "a#b"']);
    expect(kinds('name: Gemma 3')).toEqual(['key name']);
    expect(kinds('on: [1, true]')).toEqual(['key on', 'number 1', 'word true']);
    for (const line of ['', '  - x', 'a: "b', "k: 'it''s' # c", 'http://x:1', 'a: ~']) expect(highlight(line).map(({ text }) => text).join('')).toBe(line);
  });
  it('is written for reading', () => {
    expect(toYaml({ a: 1, b: ['x', { c: true, d: null }], e: {}, f: [], 'g h': 'yes', i: 'two\nlines', j: '/usr/bin/x -y' })).toBe(
      'a: 1\nb:\n  - x\n  - c: true\n    d: null\ne: {}\nf: []\n"g h": "yes"\ni: |-\n  two\n  lines\nj: /usr/bin/x -y\n',
    );
  });
});
