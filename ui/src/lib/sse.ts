/** Server-sent events over fetch (EventSource cannot send an API key). Format: WHATWG HTML, "Server-sent events". */

export interface SseMessage {
  event: string;
  data: string;
}

/** Feed it text as it comes, cut anywhere; `onMessage` gets each whole message. */
export class SseParser {
  #rest = '';
  #event = '';
  #data: string[] = [];

  constructor(private readonly onMessage: (message: SseMessage) => void) {}

  feed(text: string): void {
    let buffer = this.#rest + text;
    // A "\r" at the end may be half of a "\r\n".
    let held = '';
    if (buffer.endsWith('\r')) {
      held = '\r';
      buffer = buffer.slice(0, -1);
    }
    let start = 0;
    const end = /\r\n|\n|\r/g;
    for (let match = end.exec(buffer); match; match = end.exec(buffer)) {
      this.#line(buffer.slice(start, match.index));
      start = end.lastIndex;
    }
    this.#rest = buffer.slice(start) + held;
  }

  #line(line: string): void {
    if (line === '') {
      if (this.#data.length) this.onMessage({ event: this.#event || 'message', data: this.#data.join('\n') });
      this.#event = '';
      this.#data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return; // a comment: the server's heartbeat
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? '' : line.slice(colon + 1);
    if (value.startsWith(' ')) value = value.slice(1);
    if (field === 'data') this.#data.push(value);
    else if (field === 'event') this.#event = value;
  }
}

/**
 * Read a body as text, piece by piece, until it ends. Throws `Silence` if nothing at all comes for `silenceMs`
 * (the server sends a heartbeat every 15 s), and whatever fetch throws when the connection breaks.
 */
export async function readText(
  body: ReadableStream<Uint8Array>,
  onText: (text: string) => void,
  silenceMs = Infinity,
): Promise<void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let timer: ReturnType<typeof setTimeout> | undefined;
  try {
    for (;;) {
      const silence = new Promise<never>((_, reject) => {
        if (silenceMs < Infinity) timer = setTimeout(() => reject(new Silence(silenceMs)), silenceMs);
      });
      const { done, value } = await Promise.race([reader.read(), silence]);
      clearTimeout(timer);
      if (done) break;
      onText(decoder.decode(value, { stream: true }));
    }
    const last = decoder.decode();
    if (last) onText(last);
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => undefined);
  }
}

export class Silence extends Error {
  constructor(ms: number) {
    super(`nothing came for ${Math.round(ms / 1000)} s`);
  }
}
