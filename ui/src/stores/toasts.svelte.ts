export interface Toast {
  id: number;
  kind: 'info' | 'success' | 'error';
  text: string;
}

const SHOWN_MS = { info: 4000, success: 3000, error: 8000 };

class Toasts {
  list = $state.raw<Toast[]>([]);
  #next = 1;

  /** Tell something that the page itself does not show. Errors stay longer. */
  show(text: string, kind: Toast['kind'] = 'info'): void {
    const toast = { id: this.#next++, kind, text };
    this.list = [...this.list.filter((other) => other.text !== text), toast].slice(-4);
    setTimeout(() => this.dismiss(toast.id), SHOWN_MS[kind]);
  }

  error(text: string): void {
    this.show(text, 'error');
  }

  dismiss(id: number): void {
    this.list = this.list.filter((toast) => toast.id !== id);
  }
}

export const toasts = new Toasts();
