/**
 * Conversations kept in the browser: a list of summaries, each conversation on its own. Where they lie is the backend's matter.
 * Bounded: what has not been used for longest goes when there are too many or they are too big together.
 */
import { isObject } from '../shape';
import type { Conversation, Message } from './conversation';
import { isSettings, NO_SETTINGS } from './settings';

export interface Summary {
  id: string;
  title: string;
  updated: string;
  model: string;
  messages: number;
  /** Characters as JSON, nearly bytes. */
  size: number;
}

export interface Backend {
  summaries(): Promise<Summary[]>;
  get(id: string): Promise<Conversation | undefined>;
  put(conversation: Conversation, summary: Summary): Promise<void>;
  remove(ids: readonly string[]): Promise<void>;
}

/** Without storage (a private window): it lasts as long as the page. */
export class MemoryBackend implements Backend {
  #all = new Map<string, { conversation: Conversation; summary: Summary }>();

  async summaries(): Promise<Summary[]> {
    return [...this.#all.values()].map(({ summary }) => summary);
  }
  async get(id: string): Promise<Conversation | undefined> {
    return this.#all.get(id)?.conversation;
  }
  async put(conversation: Conversation, summary: Summary): Promise<void> {
    this.#all.set(conversation.id, { conversation, summary });
  }
  async remove(ids: readonly string[]): Promise<void> {
    for (const id of ids) this.#all.delete(id);
  }
}

export const LIMITS = { count: 500, size: 200_000_000 };

export class Library {
  constructor(
    private readonly backend: Backend,
    private readonly limits = LIMITS,
  ) {}

  /** Last used first. */
  async list(): Promise<Summary[]> {
    return (await this.backend.summaries()).sort((a, b) => (a.updated < b.updated ? 1 : a.updated > b.updated ? -1 : 0));
  }

  get(id: string): Promise<Conversation | undefined> {
    return this.backend.get(id);
  }

  /** Keep it as it is now; the list after that, and the titles of those that had to go. */
  async put(conversation: Conversation): Promise<{ list: Summary[]; dropped: string[] }> {
    await this.backend.put(conversation, summaryOf(conversation));
    const list = await this.list();
    const keep: Summary[] = [];
    const drop: Summary[] = [];
    let size = 0;
    for (const entry of list) {
      size += entry.size;
      const fits = keep.length < this.limits.count && size <= this.limits.size;
      (fits || entry.id === conversation.id ? keep : drop).push(entry);
    }
    if (drop.length) await this.backend.remove(drop.map(({ id }) => id));
    return { list: keep, dropped: drop.map(({ title }) => title) };
  }

  remove(ids: readonly string[]): Promise<void> {
    return this.backend.remove(ids);
  }

  /** All (or these) conversations as a JSON file. */
  async export(ids?: readonly string[]): Promise<string> {
    const chosen = ids ?? (await this.list()).map(({ id }) => id);
    const conversations = (await Promise.all(chosen.map((id) => this.get(id)))).filter((found) => found !== undefined);
    return JSON.stringify({ format: FORMAT, conversations }, null, 1);
  }

  /** Take in an exported file; one that is here already is replaced only by a newer one. How many came in. Throws Error that says why not. */
  async import(text: string): Promise<number> {
    const known = new Map((await this.list()).map((entry) => [entry.id, entry.updated]));
    let count = 0;
    for (const conversation of readExport(text)) {
      const mine = known.get(conversation.id);
      if (mine !== undefined && mine >= conversation.updated) continue;
      await this.put(conversation);
      count += 1;
    }
    return count;
  }
}

const FORMAT = 'llamaswap-conversations-1';

export function summaryOf(conversation: Conversation): Summary {
  const { id, title, updated, model, messages } = conversation;
  return { id, title, updated, model, messages: messages.length, size: JSON.stringify(conversation).length };
}

/** The conversations of an export, each field checked: the file may come from anywhere. */
export function readExport(text: string): Conversation[] {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('the file is not JSON');
  }
  if (!isObject(file) || file.format !== FORMAT || !Array.isArray(file.conversations)) {
    throw new Error('the file is not an export of conversations from here');
  }
  return (file.conversations as unknown[]).map((entry, i) => {
    const conversation = conversationFrom(entry);
    if (!conversation) throw new Error(`conversation ${i + 1} of the file cannot be read`);
    return conversation;
  });
}

function conversationFrom(value: unknown): Conversation | null {
  if (!isObject(value) || typeof value.id !== 'string' || !value.id || !Array.isArray(value.messages)) return null;
  const messages = (value.messages as unknown[]).map(messageFrom);
  if (messages.some((message) => message === null)) return null;
  const text = (key: string, other = '') => (typeof value[key] === 'string' ? value[key] : other);
  const now = new Date(0).toISOString();
  const last = messages.at(-1) as Message | undefined;
  const head = text('head');
  return {
    id: value.id,
    title: text('title', 'Imported'),
    named: value.named === true,
    created: text('created', now),
    updated: text('updated', now),
    model: text('model'),
    system: text('system'),
    settings: isSettings(value.settings) ? value.settings : NO_SETTINGS,
    messages: messages as Message[],
    head: messages.some((message) => message?.id === head) ? head : (last?.id ?? null),
  };
}

function messageFrom(value: unknown): Message | null {
  if (!isObject(value) || typeof value.id !== 'string' || typeof value.text !== 'string') return null;
  if (value.role !== 'user' && value.role !== 'assistant') return null;
  if (value.parent !== null && typeof value.parent !== 'string') return null;
  const message: Message = { id: value.id, parent: value.parent, role: value.role, text: value.text, at: typeof value.at === 'string' ? value.at : '' };
  for (const key of ['reasoning', 'model', 'finish'] as const) if (typeof value[key] === 'string') message[key] = value[key];
  if (value.stopped === true) message.stopped = true;
  if (isObject(value.error)) message.error = { message: String(value.error.message ?? ''), code: String(value.error.code ?? '') };
  if (isObject(value.stats) && typeof value.stats.total_ms === 'number') message.stats = value.stats as unknown as NonNullable<Message['stats']>;
  const strings = (list: unknown, keys: readonly string[]) =>
    Array.isArray(list) ? (list as unknown[]).filter((entry) => isObject(entry) && keys.every((key) => typeof entry[key] === 'string')) : [];
  const pictures = (strings(value.pictures, ['url', 'name']) as NonNullable<Message['pictures']>).filter(({ url }) => /^data:image\/[a-z]+;base64,/.test(url));
  if (pictures.length) message.pictures = pictures;
  const files = strings(value.files, ['name', 'text']) as NonNullable<Message['files']>;
  if (files.length) message.files = files;
  const calls = strings(value.toolCalls, ['name', 'args']) as NonNullable<Message['toolCalls']>;
  if (calls.length) message.toolCalls = calls;
  return message;
}
