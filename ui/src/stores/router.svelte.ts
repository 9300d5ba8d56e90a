import { untrack } from 'svelte';

/** History routing under /ui/: what page is shown is what the address says. */

const BASE = '/ui/';

interface Location {
  /** Decoded, without /ui/ and without slashes at its ends: "models/org/name". */
  path: string;
  query: URLSearchParams;
}

function read(): Location {
  const raw = location.pathname.startsWith(BASE) ? location.pathname.slice(BASE.length) : '';
  const path = raw
    .split('/')
    .map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    })
    .join('/')
    .replace(/^\/+|\/+$/g, '');
  return { path, query: new URLSearchParams(location.search) };
}

class Router {
  #at = $state.raw<Location>(read());
  /** Counts up with each navigation to another path, so that the page can move the focus. */
  visits = $state(0);

  get path(): string {
    return this.#at.path;
  }

  get query(): URLSearchParams {
    return this.#at.query;
  }

  /** Go to a page: `go('models/' + idPath(id))`, with a query if there is one. */
  go(target: string, { replace = false } = {}): void {
    this.#set(BASE + target, replace);
    window.scrollTo(0, 0);
  }

  /** Change parts of the query (null or "" removes); no new entry in the history unless asked for. */
  setQuery(changes: Record<string, string | null>, { push = false } = {}): void {
    const query = new URLSearchParams(location.search);
    for (const [key, value] of Object.entries(changes)) {
      if (value) query.set(key, value);
      else query.delete(key);
    }
    const text = query.toString();
    this.#set(location.pathname + (text && `?${text}`), !push);
  }

  /** Follow history and links; call once. */
  start(): void {
    window.addEventListener('popstate', () => this.#arrive());
    document.addEventListener('click', (event) => {
      if (event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
      const link = (event.target as Element).closest?.('a[href]');
      if (!(link instanceof HTMLAnchorElement) || link.target || link.hasAttribute('download')) return;
      if (link.origin !== location.origin || !link.pathname.startsWith(BASE)) return;
      if (link.hash) return; // to a place on this page: the browser goes there
      event.preventDefault();
      this.go(link.pathname.slice(BASE.length) + link.search);
    });
  }

  #set(address: string, replace: boolean): void {
    if (address !== location.pathname + location.search) {
      if (replace) history.replaceState(null, '', address);
      else history.pushState(null, '', address);
    }
    this.#arrive();
  }

  #arrive(): void {
    const before = untrack(() => this.#at.path);
    this.#at = read();
    untrack(() => {
      if (this.#at.path !== before) this.visits += 1;
    });
  }
}

export const router = new Router();

/** The address of a page of ours: `href('models/' + idPath(id))`. */
export function href(target: string): string {
  return BASE + target;
}
