import { describe, expect, it } from 'vitest';
import { Api, ApiError, idPath, queryString } from './api';
import { backoffMs, dispatch, parseEvent, type Handlers } from './events';
import { Silence, SseParser, readText, type SseMessage } from './sse';
import { pageTitle } from './title';

describe('SseParser', () => {
  const all = (...pieces: string[]) => {
    const found: SseMessage[] = [];
    const parser = new SseParser((message) => found.push(message));
    for (const piece of pieces) parser.feed(piece);
    return found;
  };
  const text = ': hello\n\nevent:message\ndata:{"a":1}\n\ndata: one\r\ndata: two\r\n\r\nevent:x\n\ndata\n\n';

  it('reads messages, joins data, skips comments and events without data', () => {
    expect(all(text)).toEqual([
      { event: 'message', data: '{"a":1}' },
      { event: 'message', data: 'one\ntwo' },
      { event: 'message', data: '' },
    ]);
  });
  it('does not care where the text is cut', () => {
    for (let cut = 1; cut < text.length; cut += 1) expect(all(text.slice(0, cut), text.slice(cut))).toEqual(all(text));
    expect(all(...text)).toEqual(all(text));
  });
  it('keeps what is unfinished to itself', () => {
    expect(all('data: a\n')).toEqual([]);
  });
});

describe('readText', () => {
  const body = (...chunks: Uint8Array[]) =>
    new ReadableStream<Uint8Array>({
      start(controller) {
        for (const chunk of chunks) controller.enqueue(chunk);
        controller.close();
      },
    });

  it('puts characters together that were cut', async () => {
    const bytes = new TextEncoder().encode('größer');
    let text = '';
    await readText(body(bytes.slice(0, 3), bytes.slice(3)), (piece) => (text += piece));
    expect(text).toBe('größer');
  });
  it('gives up on silence', async () => {
    await expect(readText(new ReadableStream({}), () => undefined, 5)).rejects.toBeInstanceOf(Silence);
  });
});

describe('events', () => {
  it('decodes data twice', () => {
    expect(parseEvent('{"type":"activity","data":"{\\"id\\":7}"}')).toEqual({ type: 'activity', data: { id: 7 } });
  });
  it('takes nothing for an event that is none, or unknown', () => {
    for (const text of ['', '[]', '{}', '{"type":"toString","data":"1"}', '{"type":"new","data":"{}"}', '{"type":"activity","data":"{"}']) {
      expect(parseEvent(text)).toBeNull();
    }
  });
  it('hands an event to its own handler', () => {
    const got: unknown[] = [];
    const handlers = new Proxy({} as Handlers, { get: (_, type) => (data: unknown) => got.push([type, data]) });
    dispatch({ type: 'activity', data: { id: 1 } }, handlers);
    expect(got).toEqual([['activity', { id: 1 }]]);
  });
  it('backs off, with jitter, no further than 15 s', () => {
    expect([0, 1, 2, 9, 99].map((attempt) => backoffMs(attempt, () => 1))).toEqual([500, 1000, 2000, 15000, 15000]);
    expect(backoffMs(0, () => 0)).toBe(250);
  });
});

describe('Api', () => {
  const server = (status: number, body: string, key = 'k') => {
    const calls: [string, RequestInit][] = [];
    const refused: number[] = [];
    const api = new Api({
      key: () => key,
      onUnauthorized: () => refused.push(1),
      fetch: (url, init) => {
        calls.push([url as string, init as RequestInit]);
        return Promise.resolve(new Response(body, { status, statusText: 'Text' }));
      },
    });
    return { api, calls, refused };
  };

  it('sends the key, the query and JSON', async () => {
    const { api, calls } = server(200, '{"a":1}');
    expect(await api.json('/x', { query: { a: 1, b: ['x', 'y'], c: null }, body: { q: 1 } })).toEqual({ a: 1 });
    const [url, init] = calls[0] as [string, RequestInit];
    expect(url).toBe('/x?a=1&b=x&b=y');
    expect(init).toMatchObject({ method: 'POST', body: '{"q":1}', headers: { Authorization: 'Bearer k', 'Content-Type': 'application/json' } });
  });
  it('sends a key that is not ASCII as UTF-8, as curl does', async () => {
    const { api, calls } = server(200, '{}', 'ü€');
    await api.json('/x');
    expect(calls[0]?.[1].headers).toMatchObject({ Authorization: 'Bearer \xc3\xbc\xe2\x82\xac' });
  });
  it('tells what the envelope says, and of a 401', async () => {
    const { api, refused } = server(401, '{"src":"llama-swap","error":{"message":"no key","code":"unauthorized"}}');
    await expect(api.json('/x')).rejects.toMatchObject({ status: 401, message: 'no key', code: 'unauthorized' });
    expect(refused).toEqual([1]);
  });
  it('finds words for answers without an envelope', async () => {
    await expect(server(502, '<html>').api.json('/x')).rejects.toThrow('the server answered 502 Text');
    await expect(server(500, 'boom').api.json('/x')).rejects.toThrow('boom');
    await expect(server(200, 'boom').api.json('/x')).rejects.toThrow('did not answer with JSON');
  });
  it('tells no answer from an answer', async () => {
    const api = new Api({ key: () => '', onUnauthorized: () => undefined, fetch: () => Promise.reject(new TypeError('x')) });
    await expect(api.json('/x')).rejects.toEqual(new ApiError(0, 'the server does not answer'));
  });
  it('writes ids into paths', () => {
    expect(idPath('org/a b:q?')).toBe('org/a%20b%3Aq%3F');
    expect(queryString({ a: undefined })).toBe('');
  });
});

describe('pageTitle', () => {
  const now = { page: 'Models', connection: 'live', loading: 0, requests: 0 } as const;
  it('says what a glance should tell', () => {
    expect(pageTitle(now)).toBe('Models · llamaswap');
    expect(pageTitle({ ...now, loading: 1, requests: 3 })).toBe('◐ loading ▶ 3 · Models · llamaswap');
    expect(pageTitle({ ...now, connection: 'lost', requests: 3 })).toBe('⚠ offline · Models · llamaswap');
  });
});
