import { onDestroy } from 'svelte';
import { Persisted } from './persisted.svelte';

export interface Shortcut {
  /** One key as KeyboardEvent.key names it ("/", "?", "j", "Enter"), or two one after the other ("g m"). */
  keys: string;
  label: string;
  /** Heading in the help. */
  group: string;
  run: () => void;
}

const SECOND_KEY_MS = 1200;

class Shortcuts {
  list = $state.raw<Shortcut[]>([]);
  helpOpen = $state(false);
  /** People who speak to their computer need single keys to do nothing (WCAG 2.1.4). */
  readonly enabled = new Persisted('shortcuts', true);
  // The truth: while a component is taken away, Svelte reads state as it was before the one in its place came.
  #all: Shortcut[] = [];
  #first = '';
  #firstAt = 0;

  add(...shortcuts: Shortcut[]): () => void {
    this.list = this.#all = [...this.#all, ...shortcuts];
    return () => (this.list = this.#all = this.#all.filter((item) => !shortcuts.includes(item)));
  }

  start(): void {
    window.addEventListener('keydown', (event) => this.#press(event));
  }

  #press(event: KeyboardEvent): void {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const target = event.target as HTMLElement;
    if (target.closest?.('input, textarea, select, [contenteditable], dialog[open]')) return;
    // Enter and Space belong to the focused control.
    if ((event.key === 'Enter' || event.key === ' ') && target.closest?.('a, button, summary')) return;
    const sequence = performance.now() - this.#firstAt < SECOND_KEY_MS ? `${this.#first} ${event.key}` : '';
    this.#first = '';
    // The latest added wins: a page's own before the shell's.
    const found =
      this.list.findLast((item) => item.keys === sequence) ?? this.list.findLast((item) => item.keys === event.key);
    if (found && (this.enabled.value || found.keys === '?')) {
      event.preventDefault();
      found.run();
    } else if (this.list.some((item) => item.keys.startsWith(`${event.key} `))) {
      this.#first = event.key;
      this.#firstAt = performance.now();
    }
  }
}

export const shortcuts = new Shortcuts();

/** Shortcuts of a component: there while it is. Call it while the component is set up. */
export function useShortcuts(...list: Shortcut[]): void {
  onDestroy(shortcuts.add(...list));
}
