/** Calls to the server the page came from. Nothing here knows of Svelte. */
import { isObject } from './shape';

/** What the server answered instead of what was asked for. `status` 0: it did not answer. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code = '',
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

export interface ApiOptions {
  /** The API key to send, if one is known. */
  key: () => string;
  /** Told when the server refuses for want of a (right) key; the call still fails. */
  onUnauthorized: () => void;
  fetch?: typeof fetch;
}

type Query = Record<string, string | number | boolean | readonly string[] | null | undefined>;

export interface CallOptions {
  method?: string;
  query?: Query;
  /** Sent as JSON, or as it is if it is a FormData. */
  body?: unknown;
  signal?: AbortSignal | undefined;
  headers?: Record<string, string>;
}

export class Api {
  constructor(private readonly options: ApiOptions) {}

  /** The answer, its body unread. Throws ApiError unless it is a success; AbortError if `signal` fired. */
  async request(path: string, { method, query, body, signal, headers }: CallOptions = {}): Promise<Response> {
    const key = this.options.key();
    const form = body instanceof FormData;
    const init: RequestInit = {
      method: method ?? (body === undefined ? 'GET' : 'POST'),
      credentials: 'same-origin',
      cache: 'no-store',
      headers: {
        Accept: 'application/json',
        ...(body === undefined || form ? {} : { 'Content-Type': 'application/json' }),
        ...(key ? { Authorization: `Bearer ${headerText(key)}` } : {}),
        ...headers,
      },
    };
    if (body !== undefined) init.body = form ? body : JSON.stringify(body);
    if (signal) init.signal = signal;
    let response: Response;
    try {
      response = await (this.options.fetch ?? fetch)(path + queryString(query), init);
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, 'the server does not answer');
    }
    if (response.ok) return response;
    const failure = await errorOf(response);
    if (response.status === 401) this.options.onUnauthorized();
    throw failure;
  }

  async json<T>(path: string, options?: CallOptions): Promise<T> {
    const response = await this.request(path, options);
    try {
      return (await response.json()) as T;
    } catch (error) {
      if (options?.signal?.aborted) throw error;
      throw new ApiError(response.status, `${path} did not answer with JSON`);
    }
  }

  async text(path: string, options?: CallOptions): Promise<string> {
    return (await this.request(path, { ...options, headers: { Accept: '*/*', ...options?.headers } })).text();
  }
}

/** For a header, which carries bytes: what is not ASCII goes as UTF-8, as the server compares it. */
function headerText(text: string): string {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

export function queryString(query: Query = {}): string {
  const params = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value === null || value === undefined) continue;
    for (const item of Array.isArray(value) ? value : [value]) params.append(key, String(item));
  }
  const text = params.toString();
  return text && `?${text}`;
}

/** A model id as part of a path: its slashes stay slashes. */
export function idPath(id: string): string {
  return id.split('/').map(encodeURIComponent).join('/');
}

async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => '');
  try {
    const body: unknown = JSON.parse(text);
    if (isObject(body) && isObject(body.error) && typeof body.error.message === 'string') {
      return new ApiError(response.status, body.error.message, String(body.error.code ?? ''));
    }
  } catch {
    // Not the envelope: a proxy in between, or an upstream's own page.
  }
  const plain = text.startsWith('<') ? '' : text.trim().slice(0, 300);
  return new ApiError(response.status, plain || `the server answered ${response.status} ${response.statusText}`.trim());
}

/** What to tell a person about any thrown thing. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === 'AbortError';
}
