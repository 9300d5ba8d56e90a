/** The playground's conversations: the list, and those that are open. An answer goes on while another page is shown. */
import { ApiError, isAbort, messageOf } from '../lib/api';
import {
  apiMessages, branch, titleOf, withChange, withHeadAt, withMessage, without,
  type Conversation, type Message, type Picture, type TextFile,
} from '../lib/playground/conversation';
import { Library, MemoryBackend, type Summary } from '../lib/playground/library';
import { Reply, ReplyError, type Stats } from '../lib/playground/reply';
import { bodyOf, isSettings, NO_SETTINGS, type Settings } from '../lib/playground/settings';
import { isObject } from '../lib/shape';
import { readText, SseParser } from '../lib/sse';
import { api } from './auth.svelte';
import { openBackend } from './conversations';
import { Persisted } from './persisted.svelte';
import { soon } from './soon';
import { stream } from './stream.svelte';
import { toasts } from './toasts.svelte';

const SHOW_MS = 60; // fast enough to look like flowing
const KEEP_MS = 3000; // what a crash of the browser may cost
const KEEP_TYPED_MS = 400;

/** What is known of an answer under way. */
export interface Live {
  /** The message it becomes. */
  id: string;
  text: string;
  reasoning: string;
  thinking: boolean;
  /** What llamaswap said while the model loaded. */
  notice: string;
  begun: boolean;
  /** Date.now() when it was sent. */
  sentAt: number;
  stats: Stats;
}

export interface Question {
  text: string;
  pictures: Picture[];
  files: TextFile[];
}

const EMPTY: Question = { text: '', pictures: [], files: [] };

export interface Defaults {
  system: string;
  settings: Settings;
}
export const defaults = new Persisted<Defaults>(
  'playground.defaults',
  { system: '', settings: NO_SETTINGS },
  (value): value is Defaults => isObject(value) && typeof value.system === 'string' && isSettings(value.settings),
);

/** crypto.randomUUID is not there over plain http from another machine. */
function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(10))].map((byte) => byte.toString(36).padStart(2, '0')).join('');
}

/** One open conversation. */
export class Chat {
  conversation = $state.raw() as Conversation;
  live = $state.raw<Live | null>(null);
  /** What is typed and not sent. */
  draft = $state.raw<Question>(EMPTY);
  #stop: AbortController | null = null;
  #keptAt = 0;
  // An answer under way is kept with a word on how it ended, should it end here: see #keep.
  #keepSoon = soon(() => { if (!this.running) this.#put(this.conversation); }, KEEP_TYPED_MS);
  #discarded = false;
  #branchOf: Conversation | null = null;
  #branch: Message[] = [];

  constructor(conversation: Conversation) {
    this.conversation = conversation;
  }

  get running(): boolean {
    return this.live !== null;
  }

  /** The branch in sight. Not a $derived: it would end with the effect that opened the chat, and the chat lives on. */
  get messages(): Message[] {
    if (this.#branchOf !== this.conversation) {
      this.#branchOf = this.conversation;
      this.#branch = branch(this.conversation);
    }
    return this.#branch;
  }

  /** Ask; the answer comes under the end of the branch in sight. */
  send(question: Question, model: string): void {
    if (this.running) return;
    this.#ask(question, this.conversation.head, model);
  }

  /** Ask something else in place of an earlier question; the earlier one stays as another branch. */
  resend(message: Message, question: Question, model: string): void {
    if (this.running) return;
    this.#ask(question, message.parent, model);
  }

  #ask(question: Question, parent: string | null, model: string): void {
    const message: Message = {
      id: newId(),
      parent,
      role: 'user',
      text: question.text,
      at: new Date().toISOString(),
      ...(question.pictures.length ? { pictures: question.pictures } : {}),
      ...(question.files.length ? { files: question.files } : {}),
    };
    const title = this.conversation.title || titleOf(question.text || question.files[0]?.name || 'Pictures');
    this.conversation = withMessage({ ...this.conversation, title }, message);
    void this.#answer(message.id, model);
  }

  /** Another try at this answer; the earlier one stays as another branch. */
  regenerate(message: Message, model: string): void {
    if (this.running || message.parent === null) return;
    // A try that gave nothing is not worth keeping.
    if (!message.text && !message.reasoning) this.conversation = without(this.conversation, message.id);
    void this.#answer(message.parent, model);
  }

  /** The question in sight has no answer (it was deleted): ask it again. */
  answerLast(model: string): void {
    const last = this.messages.at(-1);
    if (!this.running && last?.role === 'user') void this.#answer(last.id, model);
  }

  stop(): void {
    this.#stop?.abort();
  }

  /** It is deleted: nothing of it is kept any more. */
  discard(): void {
    this.#discarded = true;
    this.stop();
  }

  show(id: string): void {
    if (!this.running) this.change(withHeadAt(this.conversation, id));
  }

  remove(message: Message): void {
    if (!this.running) this.change(without(this.conversation, message.id));
  }

  /** What has been said nothing in is not kept. */
  change(conversation: Conversation): void {
    this.conversation = conversation;
    if (conversation.messages.length || chats.list.some(({ id }) => id === conversation.id)) this.#keepSoon();
  }

  async #answer(parent: string, model: string): Promise<void> {
    const stop = new AbortController();
    this.#stop = stop;
    const at = new Date().toISOString();
    const message: Message = { id: newId(), parent, role: 'assistant', text: '', model, at };
    this.conversation = { ...withMessage(this.conversation, message), model };
    const sentAt = Date.now();
    const reply = new Reply(performance.now());
    const look = () => {
      this.live = { id: message.id, ...reply.read(), notice: reply.notice, begun: reply.begun, sentAt, stats: reply.stats(performance.now()) };
    };
    const show = soon(() => {
      if (this.#stop !== stop) return;
      look();
      if (Date.now() - this.#keptAt > KEEP_MS) this.#keep(reply, message.id);
    }, SHOW_MS);
    look();
    this.#keep(reply, message.id);

    let change: Partial<Message> = {};
    try {
      await ask({ ...this.conversation, head: parent }, model, reply, stop.signal, show);
    } catch (error) {
      if (isAbort(error) || stop.signal.aborted) change = { stopped: true };
      else change = { error: failureOf(error) };
    }
    this.#stop = null;
    this.live = null;
    this.conversation = withChange(this.conversation, message.id, { ...snapshot(reply, true), ...change });
    this.#put(this.conversation);
  }

  #put(conversation: Conversation): void {
    if (!this.#discarded) void chats.keep(conversation);
  }

  /** Keep what there is so far, for the case that the page is closed. */
  #keep(reply: Reply, id: string): void {
    this.#keptAt = Date.now();
    const error = { message: 'The page was closed before the answer was complete.', code: 'interrupted' };
    this.#put(withChange(this.conversation, id, { ...snapshot(reply, false), error }));
  }
}

function snapshot(reply: Reply, over: boolean): Partial<Message> {
  const { text, reasoning } = reply.read(over);
  const finished = { stats: reply.stats(performance.now()), finish: reply.finish };
  return {
    text,
    ...(reasoning ? { reasoning } : {}),
    ...(reply.toolCalls.length ? { toolCalls: reply.toolCalls } : {}),
    ...(over && reply.begun ? finished : {}),
  };
}

/** Send the branch in sight and read what comes. Throws ApiError, ReplyError, AbortError. */
async function ask(conversation: Conversation, model: string, reply: Reply, signal: AbortSignal, show: () => void): Promise<void> {
  const header = stream.sessionHeaders[0];
  const response = await api.request('/v1/chat/completions', {
    signal,
    headers: { Accept: 'text/event-stream, application/json', ...(header ? { [header]: conversation.id } : {}) },
    body: {
      model,
      messages: apiMessages(conversation),
      stream: true,
      stream_options: { include_usage: true },
      ...bodyOf(conversation.settings),
    },
  });
  await readReply(response, reply, signal, show);
}

/** Read an answer, streamed or whole, into `reply`. Throws ReplyError if it breaks off. */
export async function readReply(response: Response, reply: Reply, signal: AbortSignal, show: () => void): Promise<void> {
  if (!response.headers.get('Content-Type')?.includes('text/event-stream') || !response.body) {
    const text = await response.text();
    try {
      reply.chunk(JSON.parse(text), performance.now());
    } catch (error) {
      if (error instanceof ReplyError) throw error;
      throw new ReplyError(`The server answered with something that is not JSON: ${text.slice(0, 200)}`);
    }
    return;
  }
  const parser = new SseParser(({ data }) => reply.event(data, performance.now()));
  try {
    await readText(response.body, (text) => {
      parser.feed(text);
      show();
    });
  } catch (error) {
    if (signal.aborted || error instanceof ReplyError) throw error;
    throw new ReplyError('The connection broke in the middle of the answer.', 'incomplete');
  }
  if (!reply.done && !reply.finish) throw new ReplyError('The answer broke off before its end.', 'incomplete');
}

export function failureOf(error: unknown): { message: string; code: string } {
  const code = error instanceof ApiError ? error.code || String(error.status || '') : error instanceof ReplyError ? error.code : '';
  return { message: messageOf(error), code };
}

class Chats {
  list = $state.raw<Summary[]>([]);
  /** Whether the list has been read. */
  known = $state(false);
  /** Whether they outlive the page. */
  lasting = $state(true);
  /** The one that was looked at last, to come back to from another page. */
  last: string | null = null;
  #open = new Map<string, Chat>();
  #library: Promise<Library> | null = null;

  #get(): Promise<Library> {
    return (this.#library ??= openBackend().then(
      (backend) => new Library(backend),
      () => {
        this.lasting = false;
        return new Library(new MemoryBackend());
      },
    ));
  }

  async refresh(): Promise<void> {
    this.list = await (await this.#get()).list();
    this.known = true;
  }

  /** A conversation that is kept once something is said in it. */
  fresh(model: string): Chat {
    const now = new Date().toISOString();
    const { system, settings } = defaults.value;
    const conversation = { id: newId(), title: '', named: false, created: now, updated: now, model, system, settings, messages: [], head: null };
    const chat = new Chat(conversation);
    this.#open.set(conversation.id, chat);
    return chat;
  }

  /** null: there is none. */
  async open(id: string): Promise<Chat | null> {
    const open = this.#open.get(id);
    if (open) return open;
    const found = await (await this.#get()).get(id);
    if (!found) return null;
    const chat = this.#open.get(id) ?? new Chat(found);
    this.#open.set(id, chat);
    return chat;
  }

  /** Whether an answer is under way in it. */
  running(id: string): boolean {
    return this.#open.get(id)?.running ?? false;
  }

  async keep(conversation: Conversation): Promise<void> {
    try {
      const { list, dropped } = await (await this.#get()).put(conversation);
      this.list = list;
      if (dropped.length) toasts.show(`There is room for so much only: ${dropped.map((title) => `“${title}”`).join(', ')} was removed.`);
    } catch (error) {
      toasts.error(`The conversation could not be kept: ${messageOf(error)}`);
    }
  }

  async rename(id: string, title: string): Promise<void> {
    const chat = await this.open(id);
    if (chat && title.trim()) chat.change({ ...chat.conversation, title: title.trim(), named: true });
  }

  async remove(ids: readonly string[]): Promise<void> {
    for (const id of ids) this.#open.get(id)?.discard();
    for (const id of ids) this.#open.delete(id);
    await (await this.#get()).remove(ids);
    await this.refresh();
  }

  async export(ids?: readonly string[]): Promise<string> {
    return (await this.#get()).export(ids);
  }

  /** Throws Error if the file is something else. */
  async import(text: string): Promise<number> {
    const count = await (await this.#get()).import(text);
    // What is open may have been replaced by a newer one.
    for (const [id, chat] of this.#open) if (!chat.running && chat.conversation.messages.length) this.#open.delete(id);
    await this.refresh();
    return count;
  }
}

export const chats = new Chats();
