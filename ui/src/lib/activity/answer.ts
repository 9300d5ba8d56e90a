/** What a captured answer says: whole JSON, or the pieces of a stream put together again. */
import { splitThinking } from '../playground/think';
import { isObject } from '../shape';
import type { SseMessage } from '../sse';
import { readContent, readItems, readMessage, pretty, type Part, type Turn } from './conversation';

export interface Answered {
  turns: Turn[];
  /** "stop", "length", "end_turn" …; "" if it was not told. */
  finish: string;
  /** What the answering server calls itself. */
  model: string;
}

type Json = Record<string, unknown>;
const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);

/** An answer's JSON; null if nothing in it is meant for reading. */
export function readAnswer(json: unknown): Answered | null {
  const answered: Answered = { turns: [], finish: '', model: isObject(json) ? text(json.model) : '' };
  const say = (role: string, said: string) => answered.turns.push({ role, parts: [{ kind: 'text', text: said }] });
  if (Array.isArray(json)) {
    const size = vectorSize(json[0]);
    if (!size) return null;
    say('vectors', `${json.length} of ${size} numbers`); // llama.cpp's /embedding
    return answered;
  }
  if (!isObject(json)) return null;
  if (json.error !== undefined && json.error !== null) {
    answered.turns.push({ role: 'error', parts: [{ kind: 'error', text: errorText(json.error) }] });
  } else if (Array.isArray(json.choices)) {
    for (const choice of json.choices.filter(isObject)) {
      answered.finish ||= text(choice.finish_reason);
      const turn = isObject(choice.message) ? readMessage(choice.message) : { role: 'assistant', parts: readContent(choice.text) };
      answered.turns.push({ ...turn, parts: thoughtsApart(turn.parts) });
    }
  } else if (Array.isArray(json.output)) {
    answered.turns.push(...readItems(json.output));
    answered.finish = text(json.status);
  } else if (json.type === 'message' || (Array.isArray(json.content) && json.role === 'assistant')) {
    answered.turns.push(readMessage(json));
    answered.finish = text(json.stop_reason);
  } else if (Array.isArray(json.results)) {
    const scores = json.results.filter(isObject).map(({ index, relevance_score: score, score: other }) => `document ${index}: ${score ?? other}`);
    say('ranking', scores.join('\n'));
  } else if (Array.isArray(json.data) && vectorSize(json.data[0])) {
    say('vectors', `${json.data.length} of ${vectorSize(json.data[0])} numbers`);
  } else if (vectorSize(json)) {
    say('vectors', `1 of ${vectorSize(json)} numbers`);
  } else if (typeof json.content === 'string') {
    answered.turns.push({ role: 'assistant', parts: thoughtsApart(readContent(json.content)) }); // llama.cpp's /completion
    answered.finish = text(json.stop_type);
  } else if (typeof json.text === 'string') {
    say('transcript', json.text);
  } else return null;
  return answered;
}

function vectorSize(value: unknown): number {
  let vector: unknown = isObject(value) ? value.embedding : undefined;
  while (Array.isArray(vector) && Array.isArray(vector[0])) vector = vector[0];
  if (typeof vector === 'string') return Math.floor((vector.length * 3) / 16); // base64 of 32-bit floats
  return Array.isArray(vector) ? vector.length : 0;
}

function errorText(error: unknown): string {
  if (isObject(error)) return text(error.message) || JSON.stringify(error);
  return text(error) || JSON.stringify(error);
}

/** Reasoning that the model wrote into its answer between tags. */
function thoughtsApart(parts: readonly Part[]): Part[] {
  return parts.flatMap((part, i): Part[] => {
    if (part.kind !== 'text' || i !== parts.findIndex(({ kind }) => kind === 'text')) return [part];
    const { reasoning, answer } = splitThinking(part.text, false);
    if (!reasoning) return [part];
    return [{ kind: 'thinking', text: reasoning }, ...(answer ? [{ kind: 'text' as const, text: answer }] : [])];
  });
}

/** The messages of a stream put together; null if they carry nothing that is understood. A stream may end anywhere. */
export function readStream(events: readonly SseMessage[]): Answered | null {
  const assembly = new Assembly();
  for (const { data } of events) {
    let json: unknown;
    try {
      json = JSON.parse(data);
    } catch {
      continue; // "[DONE]", or cut off
    }
    if (isObject(json)) assembly.take(json);
  }
  return assembly.answered();
}

/** The parts of one turn in the order of their beginnings; a piece with the key of an earlier one goes on with that. */
class Pieces {
  readonly parts: Part[] = [];
  #byKey = new Map<string, Part>();

  text(key: string, kind: 'text' | 'thinking' | 'notice', piece: unknown): void {
    if (typeof piece !== 'string' || !piece) return;
    const part = this.#part(key, (): Part => ({ kind, text: '' }));
    if ('text' in part) part.text += piece;
  }

  call(key: string, call: { name?: unknown; args?: unknown; id?: unknown }): void {
    const part = this.#part(key, () => ({ kind: 'call', name: '', args: '', id: '' }));
    if (part.kind !== 'call') return;
    part.name += text(call.name);
    part.args += text(call.args);
    part.id ||= text(call.id);
  }

  #part(key: string, make: () => Part): Part {
    let part = this.#byKey.get(key);
    if (!part) {
      part = make();
      this.#byKey.set(key, part);
      this.parts.push(part);
    }
    return part;
  }
}

class Assembly {
  #choices = new Map<number, Pieces>();
  #finish = '';
  #model = '';
  #error = '';
  #whole: Answered | null = null;

  take(json: Json): void {
    if (json.error !== undefined && json.error !== null) {
      this.#error = errorText(json.error);
    } else if (typeof json.type === 'string') this.#typed(json.type, json);
    else if (Array.isArray(json.choices)) this.#chunk(json, json.choices);
    else if (typeof json.content === 'string') {
      this.#pieces(typeof json.index === 'number' ? json.index : 0).text('text', 'text', json.content);
      this.#finish = text(json.stop_type) || this.#finish;
    }
    this.#model ||= text(json.model);
  }

  /** Chat completions and completions. */
  #chunk(json: Json, choices: readonly unknown[]): void {
    for (const choice of choices.filter(isObject)) {
      const pieces = this.#pieces(typeof choice.index === 'number' ? choice.index : 0);
      this.#finish = text(choice.finish_reason) || this.#finish;
      const delta = isObject(choice.delta) ? choice.delta : isObject(choice.message) ? choice.message : choice;
      const thought = delta.reasoning_content ?? delta.reasoning;
      // What llamaswap itself says while the model loads comes in chunks without id and object.
      if (json.id === undefined && json.object === undefined && thought && !delta.content) pieces.text('notice', 'notice', thought);
      else pieces.text('thinking', 'thinking', thought);
      pieces.text('text', 'text', delta.content ?? delta.text);
      pieces.text('text', 'text', delta.refusal);
      if (isObject(delta.audio)) pieces.text('text', 'text', delta.audio.transcript);
      for (const [position, call] of list(delta.tool_calls).entries()) {
        if (!isObject(call) || !isObject(call.function)) continue;
        const index = typeof call.index === 'number' ? call.index : position;
        pieces.call(`call ${index}`, { name: call.function.name, args: call.function.arguments, id: call.id });
      }
    }
  }

  /** Anthropic's messages and OpenAI's responses. */
  #typed(type: string, json: Json): void {
    const pieces = this.#pieces(0);
    const block = `block ${json.index}`;
    const item = `item ${json.output_index}`;
    switch (type) {
      case 'message_start':
        if (isObject(json.message)) this.#model = text(json.message.model);
        return;
      case 'content_block_start': {
        const begun = isObject(json.content_block) ? json.content_block : {};
        if (begun.type === 'tool_use' || begun.type === 'server_tool_use') pieces.call(block, begun);
        else pieces.text(block, begun.type === 'thinking' ? 'thinking' : 'text', begun.text ?? begun.thinking);
        return;
      }
      case 'content_block_delta': {
        const delta = isObject(json.delta) ? json.delta : {};
        if (delta.type === 'input_json_delta') pieces.call(block, { args: delta.partial_json });
        else if (delta.type === 'thinking_delta') pieces.text(block, 'thinking', delta.thinking);
        else if (delta.type === 'text_delta') pieces.text(block, 'text', delta.text);
        return;
      }
      case 'message_delta':
        if (isObject(json.delta)) this.#finish = text(json.delta.stop_reason) || this.#finish;
        return;
      case 'transcript.text.delta':
        return pieces.text('text', 'text', json.delta);
      case 'response.output_item.added':
        if (isObject(json.item) && json.item.type === 'function_call') pieces.call(item, { name: json.item.name, id: json.item.call_id });
        return;
      case 'response.output_text.delta':
      case 'response.refusal.delta':
        return pieces.text(item, 'text', json.delta);
      case 'response.reasoning_text.delta':
      case 'response.reasoning_summary_text.delta':
        return pieces.text(item, 'thinking', json.delta);
      case 'response.function_call_arguments.delta':
        return pieces.call(item, { args: json.delta });
      case 'response.completed':
      case 'response.incomplete':
      case 'response.failed':
        this.#whole = readAnswer(json.response);
        return;
      case 'error':
        this.#error = text(json.message) || 'the answer ended with an error';
    }
  }

  answered(): Answered | null {
    const whole = this.#whole?.turns.some(({ parts }) => parts.length) ? this.#whole : null;
    const turns = whole?.turns ?? [];
    if (!whole) {
      for (const [, { parts }] of [...this.#choices].sort(([a], [b]) => a - b)) {
        const shown = parts.map((part) => (part.kind === 'call' ? { ...part, args: pretty(part.args) } : part));
        if (shown.length) turns.push({ role: 'assistant', parts: thoughtsApart(shown) });
      }
    }
    if (this.#error) turns.push({ role: 'error', parts: [{ kind: 'error', text: this.#error }] });
    if (!turns.length) return null;
    return { turns, finish: whole?.finish ?? this.#finish, model: this.#model || (whole?.model ?? '') };
  }

  #pieces(index: number): Pieces {
    let pieces = this.#choices.get(index);
    if (!pieces) {
      pieces = new Pieces();
      this.#choices.set(index, pieces);
    }
    return pieces;
  }
}
