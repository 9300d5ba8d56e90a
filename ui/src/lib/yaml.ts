/** Just enough of YAML to colour it and to write it; reading is the server's business. */

export interface Token {
  kind: 'key' | 'string' | 'number' | 'word' | 'comment' | 'macro' | 'plain';
  text: string;
}

const TOKENS =
  /(#.*$)|("(?:[^"\\]|\\.)*"?|'(?:[^']|'')*'?)|(\$\{[^}]*\})|(\b(?:true|false|null)\b|~)|(?<![\w.-])(-?\d+(?:\.\d+)?)(?![\w.-])/g;

/** One line in pieces. A block of text (`|`) is coloured like anything else; that is wrong now and then, and harmless. */
export function highlight(line: string): Token[] {
  const tokens: Token[] = [];
  const add = (kind: Token['kind'], text: string) => {
    if (text) tokens.push({ kind, text });
  };
  const key = /^(\s*(?:- )*)("[^"]*"|'[^']*'|[^\s#"'{[][^#]*?)(:)(?=\s|$)/.exec(line);
  let at = 0;
  if (key) {
    add('plain', key[1] ?? '');
    add('key', key[2] ?? '');
    add('plain', ':');
    at = key[0].length;
  }
  const rest = line.slice(at);
  // "Gemma 3" holds no number: one stands alone, or in a list in brackets.
  const value = rest.replace(/\s#.*$/, '').replace(/^\s*(- )*/, '').trim();
  const scalars = /^[[{]/.test(value) || /^\S*$/.test(value);
  let done = 0;
  for (const match of rest.matchAll(TOKENS)) {
    const before = rest[match.index - 1];
    if (match[1] && before !== undefined && !/\s/.test(before)) continue; // a # inside a word
    if ((match[4] || match[5]) && !scalars) continue;
    add('plain', rest.slice(done, match.index));
    const kinds = ['comment', 'string', 'macro', 'word', 'number'] as const;
    add(kinds[[1, 2, 3, 4, 5].findIndex((group) => match[group] !== undefined)] ?? 'plain', match[0]);
    done = match.index + match[0].length;
  }
  add('plain', rest.slice(done));
  return tokens;
}

/** JSON data as YAML text, for reading. */
export function toYaml(value: unknown, depth = 0): string {
  const pad = '  '.repeat(depth);
  if (Array.isArray(value)) {
    if (!value.length) return `${pad}[]\n`;
    return value.map((item) => (nested(item) ? `${pad}-${toYaml(item, depth + 1).slice(pad.length + 1)}` : `${pad}- ${scalar(item, depth)}\n`)).join('');
  }
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value);
    if (!entries.length) return `${pad}{}\n`;
    return entries
      .map(([key, item]) =>
        nested(item) ? `${pad}${name(key)}:\n${toYaml(item, depth + 1)}` : `${pad}${name(key)}: ${scalar(item, depth)}\n`,
      )
      .join('');
  }
  return `${pad}${scalar(value, depth)}\n`;
}

function nested(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length > 0;
}

function name(key: string): string {
  return /^[A-Za-z_][\w./-]*$/.test(key) ? key : JSON.stringify(key);
}

function scalar(value: unknown, depth: number): string {
  if (Array.isArray(value)) return '[]';
  if (typeof value === 'object' && value !== null) return '{}';
  if (typeof value !== 'string') return JSON.stringify(value) ?? 'null';
  if (value.includes('\n') && !/^\s/.test(value)) {
    const pad = '  '.repeat(depth + 1);
    const mark = value.endsWith('\n') ? '|' : '|-';
    return `${mark}\n${value.replace(/\n$/, '').split('\n').map((line) => line && pad + line).join('\n')}`;
  }
  const plain = /^[A-Za-z/][^#:\n"'{}[\],&*!|>%@`]*$/.test(value) && !/^(true|false|null|yes|no|on|off)$/i.test(value) && value === value.trim();
  return plain ? value : JSON.stringify(value);
}
