import { afterEach, expect, it, vi } from 'vitest';
import { chats, type Chat } from './chats.svelte';

// It listens to the window, which there is none of here.
vi.mock('./stream.svelte', () => ({ stream: { sessionHeaders: ['X-Session-ID'] } }));

/** A server whose answer the test writes piece by piece. */
function server() {
  const asked: { url: string; session: string | null; body: { model: string; messages: object[] } & Record<string, unknown> }[] = [];
  let pipe!: ReadableStreamDefaultController<Uint8Array>;
  let gone = false;
  vi.stubGlobal('fetch', async (url: string, init: RequestInit) => {
    asked.push({ url, session: new Headers(init.headers).get('X-Session-ID'), body: JSON.parse(init.body as string) as (typeof asked)[0]['body'] });
    const body = new ReadableStream<Uint8Array>({ start: (controller) => void (pipe = controller), cancel: () => void (gone = true) });
    init.signal?.addEventListener('abort', () => {
      gone = true;
      pipe.error(new DOMException('aborted', 'AbortError'));
    });
    return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } });
  });
  const write = (text: string) => pipe.enqueue(new TextEncoder().encode(text));
  return {
    asked,
    say: (delta: object, more: object = {}) => write(`data: ${JSON.stringify({ id: 'c', choices: [{ delta, ...more }] })}\n\n`),
    write,
    end: () => pipe.close(),
    fail: () => pipe.error(new TypeError('network error')),
    gone: () => gone,
  };
}
const refuse = (status: number, body: unknown) => vi.stubGlobal('fetch', async () => new Response(JSON.stringify(body), { status }));
const over = (chat: Chat) => vi.waitFor(() => expect(chat.running).toBe(false));
const ask = (text: string) => ({ text, pictures: [], files: [] });
const last = (chat: Chat) => chat.messages.at(-1);

afterEach(() => vi.unstubAllGlobals());

it('asks, shows the answer as it comes, and keeps it', async () => {
  const there = server();
  const chat = chats.fresh('m');
  chat.send(ask('Hi there'), 'm');
  await vi.waitFor(() => expect(there.asked).toHaveLength(1));
  expect(there.asked[0]).toMatchObject({ url: '/v1/chat/completions', session: chat.conversation.id, body: { model: 'm', stream: true, messages: [{ role: 'user', content: 'Hi there' }] } });
  there.say({ reasoning_content: 'hm' });
  await vi.waitFor(() => expect(chat.live).toMatchObject({ reasoning: 'hm', thinking: true, begun: true }));
  // What the page would leave behind if it were closed now.
  expect(chats.list.find(({ id }) => id === chat.conversation.id)?.title).toBe('Hi there');
  there.say({ content: 'Hello' });
  there.say({}, { finish_reason: 'stop' });
  there.write('data: [DONE]\n\n');
  there.end();
  await over(chat);
  expect(last(chat)).toMatchObject({ role: 'assistant', text: 'Hello', reasoning: 'hm', finish: 'stop', model: 'm' });
  expect(last(chat)).not.toHaveProperty('error');
  const text = await chats.export([chat.conversation.id]);
  expect(JSON.parse(text)).toMatchObject({ conversations: [{ title: 'Hi there', messages: [{ text: 'Hi there' }, { text: 'Hello' }] }] });
});

it('stops: the request ends, what was said stays', async () => {
  const there = server();
  const chat = chats.fresh('m');
  chat.send(ask('x'), 'm');
  await vi.waitFor(() => expect(there.asked).toHaveLength(1));
  there.say({ content: 'Hel' });
  await vi.waitFor(() => expect(chat.live?.text).toBe('Hel'));
  chat.stop();
  await over(chat);
  expect(there.gone()).toBe(true);
  expect(last(chat)).toMatchObject({ text: 'Hel', stopped: true });
  expect(last(chat)).not.toHaveProperty('error');
});

it('tells of an answer that breaks off, and keeps its part', async () => {
  for (const how of ['fail', 'end'] as const) {
    const there = server();
    const chat = chats.fresh('m');
    chat.send(ask('x'), 'm');
    await vi.waitFor(() => expect(there.asked).toHaveLength(1));
    there.say({ content: 'Hel' });
    await vi.waitFor(() => expect(chat.live?.text).toBe('Hel'));
    there[how]();
    await over(chat);
    expect(last(chat)).toMatchObject({ text: 'Hel', error: { code: 'incomplete' } });
  }
});

it('says what the server said, and tries again in its place', async () => {
  refuse(502, { src: 'llama-swap', error: { message: 'm did not start', type: 'server_error', param: null, code: 'start_failed' } });
  const chat = chats.fresh('m');
  chat.send(ask('x'), 'm');
  await over(chat);
  const failed = last(chat);
  expect(failed).toMatchObject({ text: '', error: { message: 'm did not start', code: 'start_failed' } });
  refuse(200, { id: 'c', choices: [{ message: { content: 'now' }, finish_reason: 'stop' }] });
  chat.regenerate(failed as NonNullable<typeof failed>, 'm');
  await over(chat);
  expect(chat.messages.map(({ text }) => text)).toEqual(['x', 'now']);
  expect(chat.conversation.messages).toHaveLength(2);
});

it('keeps versions: another try, another question', async () => {
  refuse(200, { id: 'c', choices: [{ message: { content: 'one' }, finish_reason: 'stop' }] });
  const chat = chats.fresh('m');
  chat.send(ask('x'), 'm');
  await over(chat);
  refuse(200, { id: 'c', choices: [{ message: { content: 'two' }, finish_reason: 'stop' }] });
  chat.regenerate(last(chat) as NonNullable<ReturnType<typeof last>>, 'other');
  await over(chat);
  expect(last(chat)).toMatchObject({ text: 'two', model: 'other' });
  chat.resend(chat.messages[0] as NonNullable<ReturnType<typeof last>>, ask('y'), 'm');
  await over(chat);
  expect(chat.messages.map(({ text }) => text)).toEqual(['y', 'two']);
  expect(chat.conversation.messages.map(({ text }) => text)).toEqual(['x', 'one', 'two', 'y', 'two']);
});

it('does not keep what was deleted while it was answered', async () => {
  const there = server();
  const chat = chats.fresh('m');
  const { id } = chat.conversation;
  chat.send(ask('x'), 'm');
  await vi.waitFor(() => expect(there.asked).toHaveLength(1));
  await vi.waitFor(() => expect(chats.list.some((entry) => entry.id === id)).toBe(true));
  await chats.remove([id]);
  await over(chat);
  expect(await chats.open(id)).toBeNull();
});
