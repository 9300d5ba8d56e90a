/** A captured request and its answer, ready to be read. */
import { SseParser, type SseMessage } from '../sse';
import type { CaptureAnswer } from '../types';

/** A body as it can be shown. */
export interface Body {
  bytes: number;
  /** "" if it is no text. */
  text: string;
  binary: boolean;
  /** What the text says, if it is JSON. */
  json?: unknown;
  /** Its messages, if it is a stream of events. */
  events?: SseMessage[];
}

export interface Capture {
  path: string;
  request: Body;
  response: Body;
  requestHeaders: [string, string][];
  responseHeaders: [string, string][];
  truncated: boolean;
}

export function readCapture(answer: CaptureAnswer): Capture {
  const headers = (all: Record<string, string> | null) =>
    Object.entries(all ?? {}).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  return {
    path: answer.req_path,
    request: readBody(answer.req_body),
    response: readBody(answer.resp_body),
    requestHeaders: headers(answer.req_headers),
    responseHeaders: headers(answer.resp_headers),
    truncated: answer.truncated ?? false,
  };
}

/** `base64` may be cut anywhere in the text that it stands for. */
export function readBody(base64: string | null): Body {
  const bytes = Uint8Array.from(atob(base64 ?? ''), (char) => char.charCodeAt(0));
  let text = '';
  try {
    // A stream's decoder holds back a last character that is not whole.
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes, { stream: true });
  } catch {
    return { bytes: bytes.length, text: '', binary: true };
  }
  if (text.includes('\0')) return { bytes: bytes.length, text: '', binary: true };
  const body: Body = { bytes: bytes.length, text, binary: false };
  try {
    if (text.trim()) body.json = JSON.parse(text);
  } catch {
    if (/^\s*(?:data|event|id|retry)?:/.test(text)) {
      const events = readEvents(text);
      if (events.length) body.events = events;
    }
  }
  return body;
}

export function readEvents(text: string): SseMessage[] {
  const events: SseMessage[] = [];
  new SseParser((message) => events.push(message)).feed(`${text}\n\n`);
  return events;
}
