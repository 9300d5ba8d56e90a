// What the fake server's models answer: enough for the playground. A question with "error" in it fails, one with "break" breaks off.

const THOUGHT = 'The question is short.\n\nAn answer with **code**, a table and a formula shows what can be drawn.';
const TEXT = `Rayleigh scattering: short waves are scattered *much* more, as \\(I \\propto \\lambda^{-4}\\).

\`\`\`python
def scattered(wavelength_nm: float) -> float:
    """Relative to red light."""  # 700 nm
    return (700 / wavelength_nm) ** 4
\`\`\`

| colour | nm | scattered |
|:--|--:|--:|
| red | 700 | 1.0 |
| blue | 450 | 5.9 |

1. Blue light comes from everywhere,
2. red light comes straight from the sun.
`;

const pieces = (text) => text.match(/[\s\S]{1,4}/g) ?? [];

/** Whether the path was one of these; `body` is the request's JSON. */
export function answer(path, body, response, { json, failure }) {
  if (path === '/v1/chat/completions' || path === '/v1/completions') stream(path, body, response, failure);
  else if (path === '/v1/embeddings') json(response, { data: body.input.map((text, index) => ({ index, embedding: Array.from({ length: 64 }, (_, i) => Math.sin(i + text.length)) })) });
  else if (path === '/v1/rerank') json(response, { results: body.documents.map((text, index) => ({ index, relevance_score: 8 - index * 3.3 - text.length / 50 })) });
  else return false;
  return true;
}

function stream(path, body, response, failure) {
  const chat = path === '/v1/chat/completions';
  const question = JSON.stringify(body.messages?.at(-1) ?? body.prompt);
  if (question.includes('error')) return failure(response, 502, `${body.model} did not start: the process exited with code 1`);
  const deltas = [...pieces(chat ? THOUGHT : '').map((text) => ({ reasoning_content: text })), ...pieces(TEXT).map((content) => ({ content }))].slice(0, body.max_tokens);
  if (question.includes('break')) deltas.length = Math.floor(deltas.length / 2);
  const send = (data) => response.write(`data: ${typeof data === 'string' ? data : JSON.stringify({ id: 'fake', object: 'chat.completion.chunk', ...data })}\n\n`);
  const started = Date.now();
  let count = 0;
  response.writeHead(200, { 'Content-Type': 'text/event-stream' });
  const timer = setInterval(() => {
    const delta = deltas[count];
    if (delta) {
      count += 1;
      return send({ choices: [chat ? { delta } : { text: delta.content }] });
    }
    clearInterval(timer);
    if (question.includes('break')) return response.destroy();
    const timings = { prompt_n: 24, prompt_per_second: 1900, predicted_n: count, predicted_per_second: (count * 1000) / (Date.now() - started) };
    send({ choices: [{ ...(chat ? { delta: {} } : { text: '' }), finish_reason: count === body.max_tokens ? 'length' : 'stop' }], timings });
    send('[DONE]');
    return response.end();
  }, 15);
  return response.on('close', () => clearInterval(timer));
}
