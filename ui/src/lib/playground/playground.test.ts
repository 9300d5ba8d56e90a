import { describe, expect, it } from 'vitest';
import { tabsFor, takesPictures } from './abilities';
import { apiMessages, branch, siblings, titleOf, withChange, withHeadAt, withMessage, without, type Conversation, type Message } from './conversation';
import { Library, MemoryBackend, readExport } from './library';
import { readImages } from './media';
import { fitted, sentAsItIs } from './pictures';
import { Reply, ReplyError } from './reply';
import { bodyOf, countSet, NO_SETTINGS, problemsIn } from './settings';
import { splitThinking } from './think';
import { cosine, readEmbeddings, readRanking } from './vectors';

const chunk = (delta: object, more: object = {}) => ({ id: 'c1', object: 'chat.completion.chunk', choices: [{ index: 0, delta, ...more }] });

describe('thinking between tags', () => {
  it('splits whole and half texts', () => {
    expect(splitThinking('<think>\nhm\n</think>\n\nYes', true)).toEqual({ reasoning: 'hm', answer: 'Yes', open: false });
    expect(splitThinking('\n<think>hm', true)).toEqual({ reasoning: 'hm', answer: '', open: true });
    expect(splitThinking('<think>hm', false)).toEqual({ reasoning: 'hm', answer: '', open: false });
    expect(splitThinking('[THINK]a[/THINK]b', true)).toEqual({ reasoning: 'a', answer: 'b', open: false });
  });
  it('never shows a tag in pieces', () => {
    const text = '<think>why not</think>Because';
    for (let length = 0; length <= text.length; length += 1) {
      const { reasoning, answer } = splitThinking(text.slice(0, length), true);
      expect('why not'.startsWith(reasoning)).toBe(true);
      expect('Because'.startsWith(answer)).toBe(true);
    }
  });
  it('takes an end tag alone on its line for the end of what the template began', () => {
    expect(splitThinking('let me see\n</think>\n\nYes', true)).toEqual({ reasoning: 'let me see', answer: 'Yes', open: false });
    expect(splitThinking('</think>\nYes', true)).toEqual({ reasoning: '', answer: 'Yes', open: false });
  });
  it('leaves tags alone that an answer speaks of', () => {
    for (const text of ['The <think> tag', 'Write `</think>` at the end', 'So:\n```\n</think>\n```', '<thin air>']) {
      expect(splitThinking(text, false)).toEqual({ reasoning: '', answer: text, open: false });
    }
    expect(splitThinking('<thin', false).answer).toBe('<thin');
  });
});

describe('an answer as it comes', () => {
  it('gathers text, reasoning, finish and what llama.cpp measured', () => {
    const reply = new Reply(1000);
    reply.chunk(chunk({ role: 'assistant', content: null }), 1100);
    expect(reply.begun).toBe(false);
    reply.chunk(chunk({ reasoning_content: 'think' }), 1200);
    expect(reply.read()).toEqual({ text: '', reasoning: 'think', thinking: true });
    reply.chunk(chunk({ content: 'Hel' }), 1300);
    reply.chunk(chunk({ content: 'lo' }), 1400);
    expect(reply.read()).toEqual({ text: 'Hello', reasoning: 'think', thinking: false });
    expect(reply.stats(1400)).toMatchObject({ generated: 3, estimated: true, generated_per_s: 10, first_ms: 200, total_ms: 400, prompt: null });
    reply.event(JSON.stringify({ ...chunk({}, { finish_reason: 'stop' }), timings: { prompt_n: 7, cache_n: 3, prompt_per_second: 70, predicted_n: 5, predicted_per_second: 42.5 } }), 1500);
    reply.event(JSON.stringify({ id: 'c1', choices: [], usage: { prompt_tokens: 10, completion_tokens: 5 } }), 1500);
    reply.event('[DONE]', 1500);
    expect(reply.done).toBe(true);
    expect(reply.finish).toBe('stop');
    expect(reply.stats(1500)).toEqual({ prompt: 10, cached: 3, generated: 5, estimated: false, prompt_per_s: 70, generated_per_s: 42.5, first_ms: 200, total_ms: 500 });
  });
  it('counts from usage where there are no timings', () => {
    const reply = new Reply(0);
    reply.chunk(chunk({ reasoning: 'a' }), 100);
    reply.chunk(chunk({ content: [{ type: 'text', text: 'b' }] }), 1100);
    reply.chunk({ id: 'c1', choices: [], usage: { prompt_tokens: 9, completion_tokens: 21, prompt_tokens_details: { cached_tokens: 4 } } }, 1100);
    expect(reply.read().reasoning).toBe('a');
    expect(reply.stats(1100)).toMatchObject({ prompt: 9, cached: 4, generated: 21, estimated: false, generated_per_s: 20 });
  });
  it('tells what llamaswap says while loading from what the model thinks', () => {
    const reply = new Reply(0);
    reply.event('{"choices":[{"delta":{"reasoning_content":"llama-swap loading model: x\\n"}}]}', 10);
    expect(reply.notice).toBe('llama-swap loading model: x\n');
    expect(reply.begun).toBe(false);
    expect(reply.read()).toEqual({ text: '', reasoning: '', thinking: false });
  });
  it('reads a whole answer, a completion, and calls of tools', () => {
    const whole = new Reply(0);
    whole.chunk({ id: 'c', object: 'chat.completion', choices: [{ message: { content: '<think>x</think>y' }, finish_reason: 'length' }] }, 5);
    expect([whole.read(true), whole.finish]).toEqual([{ text: 'y', reasoning: 'x', thinking: false }, 'length']);
    const raw = new Reply(0);
    raw.chunk({ choices: [{ text: ' on' }] }, 5);
    expect(raw.read().text).toBe(' on');
    const tools = new Reply(0);
    tools.chunk(chunk({ tool_calls: [{ index: 0, function: { name: 'get', arguments: '{"a"' } }] }), 5);
    tools.chunk(chunk({ tool_calls: [{ index: 0, function: { arguments: ':1}' } }] }), 6);
    expect(tools.toolCalls).toEqual([{ name: 'get', args: '{"a":1}' }]);
  });
  it('fails with what the server said in mid-stream', () => {
    const fail = (data: string) => () => new Reply(0).event(data, 1);
    expect(fail('{"src":"llama-swap","error":{"message":"x did not start","code":"start_failed"}}')).toThrow(new ReplyError('x did not start', 'start_failed'));
    expect(fail('{"error":"out of memory"}')).toThrow('out of memory');
    expect(fail('oops')).toThrow('not JSON: oops');
    expect(fail('{"error":null,"choices":[]}')).not.toThrow();
    expect(fail('[]')).not.toThrow();
  });
});

const message = (id: string, parent: string | null, role: Message['role'] = 'user', more: Partial<Message> = {}): Message => ({
  id, parent, role, text: id, at: `2026-01-01T00:00:0${id.length % 10}Z`, ...more,
});
const talk = (messages: Message[], head: string | null, more: Partial<Conversation> = {}): Conversation => ({
  id: 'k', title: 't', named: false, created: '2026-01-01T00:00:00Z', updated: '2026-01-01T00:00:00Z', model: 'm', system: '', settings: NO_SETTINGS, messages, head, ...more,
});
const ids = (conversation: Conversation) => branch(conversation).map(({ id }) => id).join(' ');
const tree = talk([message('q', null), message('a1', 'q', 'assistant'), message('a2', 'q', 'assistant'), message('r', 'a1'), message('s', 'r', 'assistant')], 'a2');

describe('a conversation', () => {
  it('shows one branch and goes to another with what follows it', () => {
    expect(ids(tree)).toBe('q a2');
    expect(siblings(tree, tree.messages[2] as Message).map(({ id }) => id)).toEqual(['a1', 'a2']);
    expect(ids(withHeadAt(tree, 'a1'))).toBe('q a1 r s');
    expect(ids(withMessage(tree, message('new', 'a2')))).toBe('q a2 new');
    expect(withChange(tree, 'a2', { text: 'x' }).messages[2]?.text).toBe('x');
  });
  it('loses with a message what follows it, and shows another branch if there is one', () => {
    const rest = without(withHeadAt(tree, 'a1'), 'a1');
    expect(rest.messages.map(({ id }) => id)).toEqual(['q', 'a2']);
    expect(ids(rest)).toBe('q a2');
    expect(without(tree, 'q')).toMatchObject({ messages: [], head: null });
    expect(without(tree, 'nothing')).toBe(tree);
  });
  it('ends where it is broken', () => {
    expect(ids(talk([message('a', 'b'), message('b', 'a')], 'a'))).toBe('b a');
    expect(ids(talk([message('a', 'gone')], 'a'))).toBe('a');
    expect(withHeadAt(talk([message('a', 'b'), message('b', 'a')], 'a'), 'a').head).toBeTruthy();
  });
  it('is sent without reasoning and without answers that failed', () => {
    const picture = { url: 'data:image/png;base64,AA==', name: 'p' };
    const conversation = talk(
      [
        message('q', null, 'user', { pictures: [picture], files: [{ name: 'f.md', text: '```\nx\n```' }] }),
        message('a', 'q', 'assistant', { reasoning: 'hm' }),
        message('b', 'a'),
        message('failed', 'b', 'assistant', { text: '', error: { message: 'x', code: '' } }),
        message('c', 'failed'),
      ],
      'c',
      { system: 'Be brief.' },
    );
    expect(apiMessages(conversation)).toEqual([
      { role: 'system', content: 'Be brief.' },
      { role: 'user', content: [{ type: 'image_url', image_url: { url: picture.url } }, { type: 'text', text: 'File f.md:\n````\n```\nx\n```\n````\n\nq' }] },
      { role: 'assistant', content: 'a' },
      { role: 'user', content: 'b' },
      { role: 'user', content: 'c' },
    ]);
    expect(apiMessages({ ...conversation, head: 'a' })).toHaveLength(3);
  });
  it('has a title of one short line', () => {
    expect(titleOf(' a\n b ')).toBe('a b');
    expect(titleOf('word '.repeat(30))).toBe(`${'word '.repeat(11)}word…`);
    expect(titleOf('x'.repeat(100))).toBe(`${'x'.repeat(60)}…`);
  });
});

describe('conversations kept', () => {
  const at = (n: number) => `2026-01-01T00:00:${String(n).padStart(2, '0')}Z`;
  it('lists the last used first and drops what is too much', async () => {
    const library = new Library(new MemoryBackend(), { count: 2, size: 1e6 });
    for (const n of [1, 3, 2]) await library.put(talk([], null, { id: `c${n}`, title: `T${n}`, updated: at(n) }));
    expect((await library.list()).map(({ id }) => id)).toEqual(['c3', 'c2']);
    expect(await library.put(talk([], null, { id: 'c4', updated: at(4) }))).toMatchObject({ dropped: ['T2'], list: [{ id: 'c4' }, { id: 'c3' }] });
    expect(await library.get('c2')).toBeUndefined();
  });
  it('bounds their size, but keeps what was just put', async () => {
    const library = new Library(new MemoryBackend(), { count: 9, size: 1200 });
    await library.put(talk([], null, { id: 'a', updated: at(1) }));
    const { list } = await library.put(talk([message('q', null, 'user', { text: 'x'.repeat(2000) })], 'q', { id: 'b', updated: at(2) }));
    expect(list.map(({ id }) => id)).toEqual(['b']);
  });
  it('come back from an export; the newer one wins', async () => {
    const from = new Library(new MemoryBackend());
    await from.put({ ...tree, updated: at(5) });
    const file = await from.export();
    const to = new Library(new MemoryBackend());
    expect(await to.import(file)).toBe(1);
    expect(await to.get('k')).toEqual({ ...tree, updated: at(5) });
    expect(await to.import(file)).toBe(0);
    await to.put({ ...tree, title: 'newer', updated: at(6) });
    expect(await to.import(file)).toBe(0);
    await to.remove(['k']);
    expect(await to.list()).toEqual([]);
  });
  it('refuses files that are something else, and leaves out what it does not know', () => {
    expect(() => readExport('{')).toThrow('not JSON');
    expect(() => readExport('[]')).toThrow('not an export');
    const file = (conversation: unknown) => JSON.stringify({ format: 'llamaswap-conversations-1', conversations: [conversation] });
    expect(() => readExport(file({ id: 'x', messages: [{ id: 'm', role: 'system', text: '', parent: null }] }))).toThrow('conversation 1');
    const [read] = readExport(
      file({ id: 'x', head: 'gone', odd: 1, settings: { temperature: 5 }, messages: [{ id: 'm', role: 'user', text: 'hi', parent: null, pictures: [{ url: 'https://evil.example/x.png', name: 'x' }, { url: 'data:image/png;base64,AA', name: 'y' }] }] }),
    );
    expect(read).toMatchObject({ id: 'x', head: 'm', title: 'Imported', settings: NO_SETTINGS, messages: [{ pictures: [{ name: 'y' }] }] });
    expect(read).not.toHaveProperty('odd');
  });
});

describe('settings', () => {
  it('sends what is set', () => {
    expect(bodyOf(NO_SETTINGS)).toEqual({});
    expect(bodyOf({ ...NO_SETTINGS, temperature: '0', top_k: ' 40 ', seed: '-1', stop: 'END\n\\n\\n\n', extra: '{"repeat_penalty": 1.1}' })).toEqual({
      temperature: 0, top_k: 40, seed: -1, stop: ['END', '\n\n'], repeat_penalty: 1.1,
    });
  });
  it('says what is wrong, and does not send it', () => {
    const settings = { ...NO_SETTINGS, temperature: 'hot', top_p: '2', max_tokens: '1.5', extra: '[]' };
    expect(Object.keys(problemsIn(settings))).toEqual(['temperature', 'top_p', 'max_tokens', 'extra']);
    expect(bodyOf(settings)).toEqual({});
    expect(problemsIn({ ...NO_SETTINGS, extra: '{' }).extra).toMatch(/^not JSON/);
    expect(problemsIn({ ...NO_SETTINGS, extra: '{"stream": false}' }).extra).toBe('stream cannot be set here');
    expect(countSet({ ...NO_SETTINGS, seed: '1' }, 'x')).toBe(2);
  });
});

describe('what a model can do', () => {
  const tabs = (capabilities?: Parameters<typeof tabsFor>[0]) => tabsFor(capabilities).map(({ id }) => id).join(' ');
  it('follows from what is declared', () => {
    expect(tabs()).toBe('chat completion embeddings rerank speech transcription images');
    expect(tabs({})).toBe('chat completion embeddings');
    expect(tabs({ vision: true, function_calling: true })).toBe('chat completion');
    expect(tabs({ reranker: true })).toBe('rerank');
    expect(tabs({ audio_speech: true })).toBe('speech');
    expect(tabs({ audio_transcriptions: true })).toBe('transcription chat completion');
    expect(tabs({ image_generation: true })).toBe('images');
    expect([takesPictures(undefined), takesPictures({}), takesPictures({ vision: true })]).toEqual([true, false, true]);
  });
});

describe('vectors and scores', () => {
  it('compares', () => {
    expect(cosine([1, 0], [2, 0])).toBe(1);
    expect(cosine([1, 0], [0, 3])).toBe(0);
    expect(cosine([1, 1], [-1, -1])).toBeCloseTo(-1, 9);
    expect([cosine([], []), cosine([1], [1, 2]), cosine([0, 0], [1, 1])]).toEqual([null, null, null]);
  });
  it('reads embeddings in their order', () => {
    const base64 = btoa(String.fromCharCode(...new Uint8Array(new Float32Array([1, -2]).buffer)));
    expect(readEmbeddings({ data: [{ index: 1, embedding: [3] }, { index: 0, embedding: base64 }] }, 2)).toEqual([[1, -2], [3]]);
    expect(() => readEmbeddings({ data: [{ embedding: [1] }] }, 2)).toThrow('1 of 2');
    expect(() => readEmbeddings({ data: [{ embedding: [[1]] }] }, 1)).toThrow('per token');
    expect(() => readEmbeddings({}, 1)).toThrow('no list');
  });
  it('sorts documents', () => {
    expect(readRanking({ results: [{ index: 0, relevance_score: -4 }, { index: 1, relevance_score: 6 }, { index: 2, relevance_score: 1 }] }, 3)).toEqual([
      { index: 1, score: 6, share: 1 }, { index: 2, score: 1, share: 0.5 }, { index: 0, score: -4, share: 0 },
    ]);
    expect(readRanking([{ index: 0, score: 0.25 }], 1)).toEqual([{ index: 0, score: 0.25, share: 0.25 }]);
    expect(readRanking([{ index: 0, score: 7 }, { index: 9, score: 8 }], 1)).toEqual([{ index: 0, score: 7, share: 1 }]);
    expect(() => readRanking({ results: [] }, 1)).toThrow('no scores');
    expect(() => readRanking({}, 1)).toThrow('no list');
  });
});

it('reads pictures that were made, and does not show those that lie elsewhere', () => {
  expect(readImages({ data: [{ b64_json: '/9j/AA==' }, { url: 'https://example.org/x.png' }, { url: 'javascript:x' }] })).toEqual([
    { url: 'data:image/jpeg;base64,/9j/AA==', shown: true, type: 'jpeg' },
    { url: 'https://example.org/x.png', shown: false, type: '' },
  ]);
  expect(readImages({ images: ['iVBO\nRw0='] })).toEqual([{ url: 'data:image/png;base64,iVBORw0=', shown: true, type: 'png' }]);
  expect(() => readImages({ data: [{}] })).toThrow('no picture');
  expect(() => readImages({})).toThrow('no list');
});

it('pictures are made smaller, never larger', () => {
  expect(fitted(4000, 3000)).toEqual({ width: 1536, height: 1152 });
  expect(fitted(100, 50)).toEqual({ width: 100, height: 50 });
  expect(fitted(10_000, 1)).toEqual({ width: 1536, height: 1 });
  expect([sentAsItIs('image/png', 1000, 500, 500), sentAsItIs('image/webp', 1000, 5, 5), sentAsItIs('image/jpeg', 9e6, 5, 5), sentAsItIs('image/png', 9, 5000, 5)]).toEqual([true, false, false, false]);
});
