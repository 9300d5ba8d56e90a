/**
 * What a captured request asks, as a conversation: OpenAI's chat completions, completions and responses, Anthropic's messages,
 * llama.cpp's own forms, and the inputs of embeddings, reranking and speech. Told apart by what is in them, since paths
 * differ (/upstream/…). Whatever is not understood is kept as it is, so that nothing is left out silently.
 */
import { isObject } from '../shape';

export type Part =
  | { kind: 'text'; text: string }
  | { kind: 'thinking'; text: string }
  | { kind: 'error'; text: string }
  | { kind: 'notice'; text: string }
  | { kind: 'call'; name: string; args: string; id: string }
  | { kind: 'result'; text: string; id: string; failed: boolean }
  /** `src` is set only if the picture is in the request itself. */
  | { kind: 'media'; what: 'picture' | 'sound' | 'file'; src: string; note: string }
  | { kind: 'other'; value: unknown };

export interface Turn {
  role: string;
  parts: Part[];
}

export interface Tool {
  name: string;
  description: string;
  value: unknown;
}

export interface Asked {
  turns: Turn[];
  tools: Tool[];
  /** Everything else: model, temperature, … */
  settings: Record<string, unknown>;
}

type Json = Record<string, unknown>;

const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const list = (value: unknown): unknown[] => (Array.isArray(value) ? value : []);
const said = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value, null, 2));

/** The request's JSON; null if it is nothing of the kind. */
export function readRequest(json: unknown): Asked | null {
  if (!isObject(json)) return null;
  const { tools, functions, ...settings } = json;
  const turns: Turn[] = [];
  const take = (key: string): unknown => {
    const value = settings[key];
    delete settings[key];
    return value;
  };
  if (Array.isArray(json.messages)) {
    if (json.system !== undefined) turns.push({ role: 'system', parts: readContent(take('system')) });
    turns.push(...list(take('messages')).map(readMessage));
  } else if (json.query !== undefined && Array.isArray(json.documents ?? json.texts)) {
    turns.push({ role: 'query', parts: readContent(take('query')) });
    const documents = list(take(json.documents === undefined ? 'texts' : 'documents'));
    turns.push(...documents.map((document, i) => ({ role: `document ${i}`, parts: readContent(isObject(document) ? document.text ?? document : document) })));
  } else if (json.input !== undefined) {
    if (json.instructions !== undefined) turns.push({ role: 'instructions', parts: readContent(take('instructions')) });
    turns.push(...readInput(take('input')));
  } else if (json.prompt !== undefined) {
    const prompts = take('prompt');
    const many = Array.isArray(prompts) && prompts.some((one) => typeof one === 'string') ? prompts : [prompts];
    turns.push(...many.map((prompt) => ({ role: 'prompt', parts: readContent(prompt) })));
    if (json.suffix) turns.push({ role: 'suffix', parts: readContent(take('suffix')) });
  } else if (json.input_prefix !== undefined || json.input_suffix !== undefined) {
    turns.push({ role: 'before', parts: readContent(take('input_prefix') ?? '') }, { role: 'after', parts: readContent(take('input_suffix') ?? '') });
  } else if (json.content !== undefined) {
    turns.push({ role: 'content', parts: readContent(take('content')) });
  } else return null;
  return { turns, tools: [...list(tools), ...list(functions)].map(readTool), settings };
}

function readTool(value: unknown): Tool {
  const tool: unknown = isObject(value) && isObject(value.function) ? value.function : value;
  if (!isObject(tool)) return { name: said(tool), description: '', value };
  return { name: text(tool.name) || text(tool.type) || 'tool', description: text(tool.description), value };
}

/** One message of chat completions or Anthropic's messages, or of an answer of theirs. */
export function readMessage(value: unknown): Turn {
  if (!isObject(value)) return { role: 'message', parts: readContent(value) };
  const role = text(value.role) || 'message';
  const name = text(value.name);
  const parts: Part[] = [];
  const thoughts = text(value.reasoning_content) || text(value.reasoning) || text(value.thinking);
  if (thoughts) parts.push({ kind: 'thinking', text: thoughts });
  if (role === 'tool' || role === 'function') {
    parts.push(...result(value.content, text(value.tool_call_id) || name, false));
  } else parts.push(...readContent(value.content));
  if (text(value.refusal)) parts.push({ kind: 'text', text: text(value.refusal) });
  if (isObject(value.audio)) {
    parts.push({ kind: 'media', what: 'sound', src: '', note: text(value.audio.transcript) });
  }
  const calls = [...list(value.tool_calls), ...(isObject(value.function_call) ? [value.function_call] : [])];
  for (const call of calls) if (isObject(call)) parts.push(readCall(call));
  return { role: name && role !== 'tool' ? `${role} (${name})` : role, parts };
}

function readCall(call: Json): Part {
  const inner = isObject(call.function) ? call.function : isObject(call.custom) ? call.custom : call;
  const args = inner.arguments ?? inner.input ?? '';
  return { kind: 'call', name: text(inner.name), args: pretty(args), id: text(call.id) || text(call.call_id) };
}

/** JSON with line breaks, if it is JSON; else what it was. */
export function pretty(args: unknown): string {
  if (typeof args !== 'string') return said(args);
  try {
    return JSON.stringify(JSON.parse(args), null, 2);
  } catch {
    return args;
  }
}

function result(content: unknown, id: string, failed: boolean): Part[] {
  const parts = readContent(content);
  const texts = parts.flatMap((part) => ('text' in part ? [part.text] : []));
  return [{ kind: 'result', text: texts.join('\n'), id, failed }, ...parts.filter((part) => !('text' in part))];
}

/** Content: a string, a list of typed parts, or tokens. */
export function readContent(content: unknown): Part[] {
  if (content === null || content === undefined || content === '') return [];
  if (typeof content === 'string') return [{ kind: 'text', text: content }];
  if (isObject(content)) return [readPart(content)].flat();
  if (!Array.isArray(content)) return [{ kind: 'other', value: content }];
  if (content.length && content.every((item) => typeof item === 'number')) {
    return [{ kind: 'notice', text: `${content.length} tokens, as numbers` }];
  }
  return content.flatMap((item): Part[] => {
    if (typeof item === 'string') return [{ kind: 'text', text: item }];
    return isObject(item) ? [readPart(item)].flat() : readContent(item);
  });
}

function readPart(part: Json): Part | Part[] {
  switch (part.type) {
    case 'text':
    case 'input_text':
    case 'output_text':
    case 'summary_text':
    case 'reasoning_text':
      return { kind: 'text', text: text(part.text) };
    case 'refusal':
      return { kind: 'text', text: text(part.refusal) };
    case 'thinking':
      return { kind: 'thinking', text: text(part.thinking) };
    case 'redacted_thinking':
      return { kind: 'notice', text: 'reasoning that its server has encrypted' };
    case 'image_url':
      return picture(isObject(part.image_url) ? text(part.image_url.url) : text(part.image_url));
    case 'input_image':
      return picture(text(part.image_url) || text(part.file_id));
    case 'image':
      return picture(address(part.source));
    case 'input_audio':
    case 'audio':
      return { kind: 'media', what: 'sound', src: '', note: isObject(part.input_audio) ? text(part.input_audio.format) : '' };
    case 'file':
    case 'input_file': {
      const file = isObject(part.file) ? part.file : part;
      return { kind: 'media', what: 'file', src: '', note: text(file.filename) || text(file.file_id) || text(file.file_url) };
    }
    case 'document':
      return isObject(part.source) && part.source.type === 'text'
        ? { kind: 'text', text: text(part.source.data) }
        : { kind: 'media', what: 'file', src: '', note: text(part.title) || (isObject(part.source) ? text(part.source.media_type) : '') };
    case 'tool_use':
    case 'server_tool_use':
      return { kind: 'call', name: text(part.name), args: pretty(part.input ?? ''), id: text(part.id) };
    case 'tool_result':
      return result(part.content, text(part.tool_use_id), part.is_error === true);
    default:
      return typeof part.text === 'string' && part.type === undefined ? { kind: 'text', text: part.text } : { kind: 'other', value: part };
  }
}

function address(source: unknown): string {
  if (!isObject(source)) return '';
  return source.type === 'base64' ? `data:${text(source.media_type)};base64,${text(source.data)}` : text(source.url);
}

/** A picture is drawn only from bytes that are here, in a format without scripts; another's address is told. */
function picture(url: string): Part {
  const own = /^data:image\/(?:png|jpeg|gif|webp|avif);base64,[\w+/=\s]+$/.test(url);
  return { kind: 'media', what: 'picture', src: own ? url : '', note: own ? '' : url.slice(0, 200) };
}

/** The input of OpenAI's responses, of embeddings or of speech. */
function readInput(input: unknown): Turn[] {
  if (!Array.isArray(input) || !input.some(isObject)) {
    const many = Array.isArray(input) && input.some((one) => typeof one === 'string' || Array.isArray(one)) ? input : [input];
    return many.map((one) => ({ role: 'input', parts: readContent(one) }));
  }
  return readItems(input);
}

/** Items of OpenAI's responses, asked or answered: what the same role says one after the other is one turn. */
export function readItems(items: readonly unknown[]): Turn[] {
  const turns: Turn[] = [];
  for (const item of items) {
    const turn = readItem(item);
    const last = turns.at(-1);
    if (last?.role === turn.role && turn.role === 'assistant') last.parts.push(...turn.parts);
    else turns.push(turn);
  }
  return turns;
}

function readItem(item: unknown): Turn {
  if (!isObject(item)) return { role: 'input', parts: readContent(item) };
  switch (item.type) {
    case 'function_call':
    case 'custom_tool_call':
      return { role: 'assistant', parts: [readCall(item)] };
    case 'function_call_output':
    case 'custom_tool_call_output':
      return { role: 'tool', parts: result(item.output, text(item.call_id), false) };
    case 'reasoning': {
      const parts = [...readContent(item.summary), ...readContent(item.content)];
      const thoughts = parts.flatMap((part) => ('text' in part ? [part.text] : [])).join('\n\n');
      return { role: 'assistant', parts: thoughts ? [{ kind: 'thinking', text: thoughts }] : [] };
    }
    case 'message':
    case undefined:
      return readMessage(item);
    default:
      return { role: 'assistant', parts: [{ kind: 'other', value: item }] };
  }
}
