/** Answers of /v1/images/generations. */
import { safeLink } from '../markdown';
import { isObject } from '../shape';

export interface Drawn {
  url: string;
  /** Whether it is here (data:), or lies on another host that the page does not ask. */
  shown: boolean;
  /** File extension. */
  type: string;
}

/** Throws Error that says what is missing. */
export function readImages(answer: unknown): Drawn[] {
  const data: unknown = isObject(answer) ? (answer.data ?? answer.images) : undefined;
  if (!Array.isArray(data)) throw new Error('the answer has no list "data": the model may not make pictures');
  const found = (data as unknown[]).flatMap((entry): Drawn[] => {
    const base64 = typeof entry === 'string' ? entry : isObject(entry) && typeof entry.b64_json === 'string' ? entry.b64_json : '';
    if (/^[\w+/=\s]+$/.test(base64)) {
      const type = typeOf(base64);
      return [{ url: `data:image/${type};base64,${base64.replace(/\s/g, '')}`, shown: true, type }];
    }
    const url = isObject(entry) && typeof entry.url === 'string' ? entry.url : '';
    if (url.startsWith('data:image/')) return [{ url, shown: true, type: url.slice(11).split(/[;+,]/)[0] ?? 'png' }];
    return safeLink(url) ? [{ url: safeLink(url), shown: false, type: '' }] : [];
  });
  if (!found.length) throw new Error('the answer has no picture');
  return found;
}

/** By its first bytes; base64 keeps them readable. */
function typeOf(base64: string): 'png' | 'jpeg' | 'webp' {
  return base64.startsWith('/9j/') ? 'jpeg' : base64.startsWith('UklGR') ? 'webp' : 'png';
}
