import { describe, expect, it } from 'vitest';
import { readAnswer, readStream } from './answer';
import { readBody, readCapture, readEvents } from './capture';
import { readRequest, type Part, type Turn } from './conversation';

const base64 = (text: string | Uint8Array) => Buffer.from(text).toString('base64');
const stream = (...chunks: object[]) => readStream(readEvents(chunks.map((chunk) => `data: ${JSON.stringify(chunk)}\n\n`).join('') + 'data: [DONE]\n\n'));
/** "role: kind text" of each part. */
const lines = (turns: readonly Turn[] | undefined) => turns?.flatMap(({ role, parts }) => parts.map((part) => `${role}: ${part.kind} ${words(part)}`));
const words = (part: Part): string => {
  if (part.kind === 'call') return `${part.name}(${part.args.replace(/\s+/g, '')})${part.id}`;
  if (part.kind === 'result') return `${part.id}=${part.text}${part.failed ? '!' : ''}`;
  if (part.kind === 'media') return `${part.what} ${part.src || part.note}`;
  return 'text' in part ? part.text : JSON.stringify(part.value);
};

describe('bodies', () => {
  it('are JSON, events, text or bytes', () => {
    expect(readBody(base64('{"a": 1}')).json).toEqual({ a: 1 });
    expect(readBody(base64('event: x\ndata: {"a": 1}\n\ndata: half')).events).toEqual([{ event: 'x', data: '{"a": 1}' }, { event: 'message', data: 'half' }]);
    expect(readBody(base64(': loading\n\ndata: 1\n\n')).events).toHaveLength(1);
    expect(readBody(base64('plain'))).toEqual({ bytes: 5, text: 'plain', binary: false });
    expect(readBody(base64(Uint8Array.of(0xff, 0xd8, 0)))).toMatchObject({ binary: true, bytes: 3 });
    expect(readBody(base64('a\0b')).binary).toBe(true);
    expect(readBody('')).toEqual({ bytes: 0, text: '', binary: false });
    expect(readBody(null).bytes).toBe(0);
  });

  it('may be cut in the middle of a character', () => {
    expect(readBody(base64(new TextEncoder().encode('né').slice(0, 2)))).toMatchObject({ text: 'n', binary: false });
  });

  it('come with headers in order', () => {
    const capture = readCapture({ id: 1, req_path: '/x', req_headers: { B: '1', A: '2' }, req_body: '', resp_headers: {}, resp_body: '', truncated: true });
    expect([capture.requestHeaders, capture.truncated]).toEqual([[['A', '2'], ['B', '1']], true]);
  });
});

describe('requests', () => {
  it('of chat completions', () => {
    const asked = readRequest({
      model: 'm', temperature: 0.5, tools: [{ type: 'function', function: { name: 'sum', description: 'adds' } }],
      messages: [
        { role: 'system', content: 'Be brief.' },
        { role: 'user', name: 'Ann', content: [{ type: 'text', text: 'See:' }, { type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }, { type: 'image_url', image_url: { url: 'http://h/x.png' } }, { type: 'input_audio', input_audio: { format: 'wav', data: 'A' } }] },
        { role: 'assistant', content: null, reasoning_content: 'hm', tool_calls: [{ id: 'c1', type: 'function', function: { name: 'sum', arguments: '{"a":1}' } }] },
        { role: 'tool', tool_call_id: 'c1', content: '2' },
        'odd', { role: 'user', content: [{ type: 'new_thing', x: 1 }] },
      ],
    }); // prettier-ignore
    expect(lines(asked?.turns)).toEqual([
      'system: text Be brief.', 'user (Ann): text See:', 'user (Ann): media picture data:image/png;base64,AAAA', 'user (Ann): media picture http://h/x.png',
      'user (Ann): media sound wav', 'assistant: thinking hm', 'assistant: call sum({"a":1})c1', 'tool: result c1=2', 'message: text odd',
      'user: other {"type":"new_thing","x":1}',
    ]); // prettier-ignore
    expect(asked?.settings).toEqual({ model: 'm', temperature: 0.5 });
    expect(asked?.tools).toMatchObject([{ name: 'sum', description: 'adds' }]);
  });

  it('never draw a picture that could hold scripts', () => {
    const url = 'data:image/svg+xml;base64,PHN2Zy8+';
    const asked = readRequest({ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }] }] });
    expect(asked?.turns[0]?.parts).toEqual([{ kind: 'media', what: 'picture', src: '', note: url }]);
  });

  it('of Anthropic’s messages', () => {
    const asked = readRequest({
      system: [{ type: 'text', text: 'Short.' }], max_tokens: 9,
      messages: [
        { role: 'user', content: 'Hi' },
        { role: 'assistant', content: [{ type: 'thinking', thinking: 'hm', signature: 's' }, { type: 'tool_use', id: 't', name: 'look', input: { q: 1 } }] },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 't', is_error: true, content: [{ type: 'text', text: 'no' }] }, { type: 'image', source: { type: 'base64', media_type: 'image/png', data: 'AAAA' } }] },
      ],
    }); // prettier-ignore
    expect(lines(asked?.turns)).toEqual([
      'system: text Short.', 'user: text Hi', 'assistant: thinking hm', 'assistant: call look({"q":1})t', 'user: result t=no!',
      'user: media picture data:image/png;base64,AAAA',
    ]); // prettier-ignore
    expect(asked?.settings).toEqual({ max_tokens: 9 });
  });

  it('of responses', () => {
    const asked = readRequest({
      instructions: 'Be kind.',
      input: [
        { role: 'user', content: [{ type: 'input_text', text: 'Hi' }] },
        { type: 'reasoning', summary: [{ type: 'summary_text', text: 'hm' }] },
        { type: 'function_call', call_id: 'c', name: 'f', arguments: '{}' },
        { type: 'function_call_output', call_id: 'c', output: 'done' },
      ],
    });
    expect(lines(asked?.turns)).toEqual(['instructions: text Be kind.', 'user: text Hi', 'assistant: thinking hm', 'assistant: call f({})c', 'tool: result c=done']);
    expect(lines(readRequest({ input: 'Hi' })?.turns)).toEqual(['input: text Hi']);
  });

  it('of everything else with text in it', () => {
    expect(lines(readRequest({ prompt: 'Once' })?.turns)).toEqual(['prompt: text Once']);
    expect(lines(readRequest({ prompt: ['a', 'b'], suffix: 'c' })?.turns)).toEqual(['prompt: text a', 'prompt: text b', 'suffix: text c']);
    expect(lines(readRequest({ prompt: [1, 2, 3] })?.turns)).toEqual(['prompt: notice 3 tokens, as numbers']);
    expect(lines(readRequest({ input: ['a', 'b'] })?.turns)).toEqual(['input: text a', 'input: text b']);
    expect(lines(readRequest({ query: 'q', documents: ['d', { text: 'e' }] })?.turns)).toEqual(['query: text q', 'document 0: text d', 'document 1: text e']);
    expect(lines(readRequest({ input_prefix: 'a', input_suffix: 'b' })?.turns)).toEqual(['before: text a', 'after: text b']);
    expect([readRequest({ model: 'm' }), readRequest([1]), readRequest('x'), readRequest(null)]).toEqual([null, null, null, null]);
  });
});

describe('whole answers', () => {
  it.each<[string, unknown, string[]]>([
    ['chat', { choices: [{ message: { role: 'assistant', content: '<think>hm</think>Yes' }, finish_reason: 'stop' }] }, ['assistant: thinking hm', 'assistant: text Yes']],
    ['completion', { choices: [{ text: 'a' }, { text: 'b' }] }, ['assistant: text a', 'assistant: text b']],
    ['messages', { type: 'message', role: 'assistant', content: [{ type: 'text', text: 'Hi' }], stop_reason: 'end_turn' }, ['assistant: text Hi']],
    ['responses', { output: [{ type: 'reasoning', summary: [], content: [{ type: 'reasoning_text', text: 'hm' }] }, { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'Hi' }] }] }, ['assistant: thinking hm', 'assistant: text Hi']],
    ['embeddings', { data: [{ embedding: [1, 2, 3] }, { embedding: [1, 2, 3] }] }, ['vectors: text 2 of 3 numbers']],
    ['base64 embeddings', { data: [{ embedding: 'AAAAAAAAAAAAAAAA' }] }, ['vectors: text 1 of 3 numbers']],
    ['llama.cpp embeddings', [{ index: 0, embedding: [[1, 2]] }], ['vectors: text 1 of 2 numbers']],
    ['rerank', { results: [{ index: 1, relevance_score: 0.5 }] }, ['ranking: text document 1: 0.5']],
    ['transcription', { text: 'Hello' }, ['transcript: text Hello']],
    ['llama.cpp', { content: 'Hi', stop_type: 'eos' }, ['assistant: text Hi']],
    ['error', { error: { message: 'no' } }, ['error: error no']],
    ['plain error', { error: 'no' }, ['error: error no']],
  ])('of %s', (_, json, expected) => expect(lines(readAnswer(json)?.turns)).toEqual(expected)); // prettier-ignore

  it('that say nothing to read are left as JSON', () => {
    expect([{ tokens: [1] }, [], 'x', 1, null, {}].map(readAnswer)).toEqual([null, null, null, null, null, null]);
    expect(readAnswer({ choices: [{ message: { content: 'x' }, finish_reason: 'length' }], model: 'm' })).toMatchObject({ finish: 'length', model: 'm' });
  });
});

describe('streams', () => {
  it('of chat completions', () => {
    const delta = (delta: object, more: object = {}) => ({ id: 'x', object: 'chat.completion.chunk', model: 'm', choices: [{ index: 0, delta, ...more }] });
    const answered = stream(
      { choices: [{ delta: { reasoning_content: 'Loading a' } }] },
      delta({ role: 'assistant', content: null }),
      delta({ reasoning_content: 'h' }), delta({ reasoning_content: 'm' }),
      delta({ content: 'Hel' }), delta({ content: 'lo' }),
      delta({ tool_calls: [{ index: 0, id: 'c', function: { name: 'f', arguments: '' } }] }), delta({ tool_calls: [{ index: 0, function: { arguments: '{"a"' } }] }), delta({ tool_calls: [{ index: 0, function: { arguments: ':1}' } }] }),
      delta({}, { finish_reason: 'tool_calls' }),
      { id: 'x', object: 'chat.completion.chunk', choices: [], usage: { total_tokens: 3 } },
    ); // prettier-ignore
    expect(lines(answered?.turns)).toEqual(['assistant: notice Loading a', 'assistant: thinking hm', 'assistant: text Hello', 'assistant: call f({"a":1})c']);
    expect(answered).toMatchObject({ finish: 'tool_calls', model: 'm' });
  });

  it('of several choices', () => {
    const piece = (index: number, text: string) => ({ id: 'x', choices: [{ index, text }] });
    expect(lines(stream(piece(1, 'b'), piece(0, 'a'), piece(1, 'c'))?.turns)).toEqual(['assistant: text a', 'assistant: text bc']);
  });

  it('of Anthropic’s messages', () => {
    const answered = stream(
      { type: 'message_start', message: { model: 'm', content: [] } },
      { type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'hm' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'signature_delta', signature: 'x' } },
      { type: 'content_block_start', index: 1, content_block: { type: 'text', text: '' } },
      { type: 'content_block_delta', index: 1, delta: { type: 'text_delta', text: 'Hi' } },
      { type: 'content_block_start', index: 2, content_block: { type: 'tool_use', id: 't', name: 'look', input: {} } },
      { type: 'content_block_delta', index: 2, delta: { type: 'input_json_delta', partial_json: '{"q":1}' } },
      { type: 'message_delta', delta: { stop_reason: 'tool_use' } }, { type: 'message_stop' }, { type: 'ping' },
    ); // prettier-ignore
    expect(lines(answered?.turns)).toEqual(['assistant: thinking hm', 'assistant: text Hi', 'assistant: call look({"q":1})t']);
    expect(answered).toMatchObject({ finish: 'tool_use', model: 'm' });
  });

  it('of responses, whole or broken off', () => {
    const begun = [
      { type: 'response.created', response: { output: [] } },
      { type: 'response.reasoning_summary_text.delta', output_index: 0, delta: 'hm' },
      { type: 'response.output_text.delta', output_index: 1, delta: 'Hel' },
      { type: 'response.output_text.delta', output_index: 1, delta: 'lo' },
      { type: 'response.output_item.added', output_index: 2, item: { type: 'function_call', name: 'f', call_id: 'c' } },
      { type: 'response.function_call_arguments.delta', output_index: 2, delta: '{}' },
    ];
    const expected = ['assistant: thinking hm', 'assistant: text Hello', 'assistant: call f({})c'];
    expect(lines(stream(...begun)?.turns)).toEqual(expected);
    const response = { status: 'completed', output: [{ type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'All' }] }] };
    const whole = stream(...begun, { type: 'response.completed', response });
    expect([lines(whole?.turns), whole?.finish]).toEqual([['assistant: text All'], 'completed']);
  });

  it('that end with an error, or in the middle of a message', () => {
    const said = { id: 'x', choices: [{ index: 0, delta: { content: 'Hi' } }] };
    expect(lines(stream(said, { error: { message: 'out of memory' } })?.turns)).toEqual(['assistant: text Hi', 'error: error out of memory']);
    expect(lines(stream({ type: 'error', error: { message: 'overloaded' } })?.turns)).toEqual(['error: error overloaded']);
    expect(lines(readStream(readEvents(`data: ${JSON.stringify(said)}\n\ndata: {"choices": [{"del`))?.turns)).toEqual(['assistant: text Hi']);
    expect(lines(stream({ content: 'a' }, { content: 'b', stop: true })?.turns)).toEqual(['assistant: text ab']);
    expect([stream({ x: 1 }), readStream([])]).toEqual([null, null]);
  });
});
