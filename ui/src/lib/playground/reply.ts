/**
 * An answer of /v1/chat/completions or /v1/completions as it comes: chunks in, the state of the answer out. Read are OpenAI's
 * fields, llama.cpp's `timings`, `reasoning_content` (llama.cpp, DeepSeek) and `reasoning` (vLLM, OpenRouter), and the frames
 * that llamaswap sends while a model loads (a delta of reasoning in a chunk without id and object).
 */
import { isObject } from '../shape';
import { splitThinking } from './think';

export interface Stats {
  /** Tokens; null: not told. */
  prompt: number | null;
  cached: number | null;
  generated: number | null;
  /** Whether `generated` was counted here, piece by piece, and may be a little off. */
  estimated: boolean;
  prompt_per_s: number | null;
  generated_per_s: number | null;
  /** From sending to the first piece of the answer, loading included. */
  first_ms: number | null;
  total_ms: number;
}

/** A server said no in the middle of its answer. */
export class ReplyError extends Error {
  constructor(
    message: string,
    readonly code = '',
  ) {
    super(message);
    this.name = 'ReplyError';
  }
}

export class Reply {
  /** What llamaswap says while the model loads. */
  notice = '';
  /** "stop", "length", "tool_calls" …; "" while it goes on or was not told. */
  finish = '';
  /** Model named by the server. */
  model = '';
  toolCalls: { name: string; args: string }[] = [];
  done = false;
  #text = '';
  #reasoning = '';
  #pieces = 0;
  #firstAt = 0;
  #lastAt = 0;
  #usage: Record<string, unknown> = {};
  #timings: Record<string, unknown> = {};

  /** Times in milliseconds of one clock. */
  constructor(private readonly startedAt: number) {}

  /** The data of one event ("[DONE]" included). Throws ReplyError if it tells of an error. */
  event(data: string, now: number): void {
    if (data.trim() === '[DONE]') {
      this.done = true;
      return;
    }
    let chunk: unknown;
    try {
      chunk = JSON.parse(data);
    } catch {
      throw new ReplyError(`the server sent something that is not JSON: ${data.slice(0, 200)}`);
    }
    this.chunk(chunk, now);
  }

  /** One chunk, or a whole answer. */
  chunk(chunk: unknown, now: number): void {
    if (!isObject(chunk)) return;
    if (chunk.error !== undefined && chunk.error !== null) throw errorIn(chunk.error);
    if (isObject(chunk.usage)) this.#usage = chunk.usage;
    if (isObject(chunk.timings)) this.#timings = chunk.timings;
    if (typeof chunk.model === 'string') this.model = chunk.model;
    const choice: unknown = Array.isArray(chunk.choices) ? chunk.choices[0] : undefined;
    if (!isObject(choice)) return;
    if (typeof choice.finish_reason === 'string') this.finish = choice.finish_reason;
    const delta = isObject(choice.delta) ? choice.delta : isObject(choice.message) ? choice.message : choice;
    const text = textOf(delta.content ?? delta.text);
    const reasoning = textOf(delta.reasoning_content ?? delta.reasoning ?? '');
    if (chunk.id === undefined && chunk.object === undefined && reasoning && !text) {
      this.notice += reasoning;
      return;
    }
    if (Array.isArray(delta.tool_calls)) this.#tools(delta.tool_calls);
    if (!text && !reasoning && !this.toolCalls.length) return;
    this.#firstAt ||= now;
    this.#lastAt = now;
    this.#pieces += (text ? 1 : 0) + (reasoning ? 1 : 0);
    this.#text += text;
    this.#reasoning += reasoning;
  }

  #tools(calls: readonly unknown[]): void {
    for (const [position, call] of calls.entries()) {
      if (!isObject(call) || !isObject(call.function)) continue;
      const index = typeof call.index === 'number' ? call.index : position;
      const tool = (this.toolCalls[index] ??= { name: '', args: '' });
      if (typeof call.function.name === 'string') tool.name += call.function.name;
      if (typeof call.function.arguments === 'string') tool.args += call.function.arguments;
    }
  }

  /** Whether a piece of the answer has come. */
  get begun(): boolean {
    return this.#firstAt > 0;
  }

  /** What was said and thought; `over`: nothing more will come. */
  read(over = false): { text: string; reasoning: string; thinking: boolean } {
    const { reasoning, answer, open } = splitThinking(this.#text, !over);
    const thoughts = [this.#reasoning.trim(), reasoning].filter(Boolean).join('\n\n');
    return { text: answer, reasoning: thoughts, thinking: !over && (open || (this.#reasoning !== '' && !answer)) };
  }

  /** All that was said, tags included. */
  get raw(): string {
    return this.#text;
  }

  stats(now: number): Stats {
    const number = (from: Record<string, unknown>, key: string) => (typeof from[key] === 'number' ? from[key] : null);
    const details = (key: string) => (isObject(this.#usage[key]) ? this.#usage[key] : {});
    const told = number(this.#timings, 'predicted_n') ?? number(this.#usage, 'completion_tokens');
    // The first piece ends the time for the prompt: speed is that of the others.
    const seconds = (this.#lastAt - this.#firstAt) / 1000;
    const count = told ?? this.#pieces;
    const measured = count > 1 && seconds > 0.05 && this.#pieces > 1 ? (count - 1) / seconds : null;
    const cached = number(this.#timings, 'cache_n') ?? number(details('prompt_tokens_details'), 'cached_tokens');
    const read = number(this.#timings, 'prompt_n');
    return {
      prompt: number(this.#usage, 'prompt_tokens') ?? (read === null ? null : read + (cached ?? 0)),
      cached,
      generated: told ?? (this.#pieces || null),
      estimated: told === null,
      prompt_per_s: positive(number(this.#timings, 'prompt_per_second')),
      generated_per_s: positive(number(this.#timings, 'predicted_per_second')) ?? measured,
      first_ms: this.#firstAt ? this.#firstAt - this.startedAt : null,
      total_ms: now - this.startedAt,
    };
  }
}

function positive(value: number | null): number | null {
  return value !== null && value > 0 && Number.isFinite(value) ? value : null;
}

/** Content is a string, or a list of parts with text in them. */
function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  return content.map((part: unknown) => (isObject(part) && typeof part.text === 'string' ? part.text : '')).join('');
}

function errorIn(error: unknown): ReplyError {
  if (isObject(error) && typeof error.message === 'string') return new ReplyError(error.message, String(error.code ?? error.type ?? ''));
  return new ReplyError(typeof error === 'string' ? error : JSON.stringify(error));
}
