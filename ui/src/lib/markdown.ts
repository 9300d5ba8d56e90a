/**
 * Markdown as a tree of plain data. Nothing in it is HTML: what draws it makes text nodes, so that whatever a model writes
 * stays text. HTML in the source is shown as it was written, but for `<br>`. Links lead to http, https and mailto only, and
 * pictures only to what the page holds itself (data:); any other picture becomes a link, for the page asks no other host.
 */
import { Marked, type Token, type Tokens } from 'marked';

export type Inline =
  | { type: 'text'; text: string }
  | { type: 'strong' | 'em' | 'del'; kids: Inline[] }
  | { type: 'code'; text: string }
  | { type: 'math'; text: string; display: boolean }
  | { type: 'break' }
  | { type: 'link'; href: string; kids: Inline[] }
  | { type: 'image'; src: string; alt: string };

export type Block =
  | { type: 'paragraph'; kids: Inline[] }
  | { type: 'heading'; level: number; kids: Inline[] }
  | { type: 'code'; language: string; text: string }
  | { type: 'math'; text: string }
  | { type: 'rule' }
  | { type: 'quote'; blocks: Block[] }
  | { type: 'list'; ordered: boolean; start: number; items: ListItem[] }
  | { type: 'table'; align: Align[]; head: Inline[][]; rows: Inline[][][] };

export interface ListItem {
  /** null: not a task. */
  checked: boolean | null;
  blocks: Block[];
}
export type Align = 'left' | 'center' | 'right' | null;

interface MathToken extends Tokens.Generic {
  text: string;
  display: boolean;
}

const marked = new Marked({
  gfm: true,
  extensions: [
    // TeX is kept together, or the backslashes and underscores in it would be taken for Markdown.
    {
      name: 'mathBlock',
      level: 'block',
      start: (source: string) => source.match(/^ {0,3}(?:\$\$|\\\[)/m)?.index,
      tokenizer(source: string): MathToken | undefined {
        const match = /^ {0,3}(?:\$\$([^$]+?)\$\$|\\\[([\s\S]+?)\\\])[ \t]*(?:\n+|$)/.exec(source);
        return match ? { type: 'mathBlock', raw: match[0], text: (match[1] ?? match[2] ?? '').trim(), display: true } : undefined;
      },
    },
    {
      name: 'math',
      level: 'inline',
      start: (source: string) => source.match(/\$|\\\(|\\\[/)?.index,
      tokenizer(source: string): MathToken | undefined {
        const match =
          /^\$\$([^$\n]+?)\$\$|^\\\[([\s\S]+?)\\\]/.exec(source) ??
          // "$5 and $6" is money: no blank inside at the ends, and no digit after.
          /^\$(?![\s$])([^$\n]*?[^\s$\\])\$(?![\d$])|^\\\(([\s\S]+?)\\\)/.exec(source);
        if (!match) return undefined;
        return { type: 'math', raw: match[0], text: (match[1] ?? match[2] ?? '').trim(), display: /^(\$\$|\\\[)/.test(match[0]) };
      },
    },
  ],
});

/** A text that grows: what is drawn already keeps its identity, only the last two blocks are read again. */
export class GrowingMarkdown {
  #source = '';
  #settled = 0; // characters of #source whose blocks will not change any more
  #blocks: Block[] = []; // of those

  /** The blocks of `text`; `final` reads all of it once more, for links defined at its end. */
  read(text: string, final = false): readonly Block[] {
    const source = text.replace(/\r\n?/g, '\n');
    if (final || !source.startsWith(this.#source.slice(0, this.#settled))) {
      this.#settled = 0;
      this.#blocks = [];
    }
    this.#source = source;
    const tokens = marked.lexer(source.slice(this.#settled));
    // Two, for a "2" under a list is a paragraph until its dot comes, and then the list goes on.
    const solid = tokens.flatMap((token, i) => (token.type === 'space' ? [] : [i]));
    const open = final ? tokens.length : (solid.at(-2) ?? 0);
    for (const token of tokens.slice(0, open)) {
      this.#settled += token.raw.length;
      this.#blocks.push(...blocksOf([token]));
    }
    return [...this.#blocks, ...blocksOf(tokens.slice(open))];
  }
}

export function parseMarkdown(text: string): readonly Block[] {
  return new GrowingMarkdown().read(text, true);
}

function blocksOf(tokens: readonly Token[]): Block[] {
  const blocks: Block[] = [];
  for (const token of tokens) {
    const block = blockOf(token);
    if (block) blocks.push(block);
  }
  return blocks;
}

function blockOf(any: Token): Block | null {
  switch (any.type) {
    case 'space':
    case 'def':
    case 'checkbox':
      return null;
    case 'code': {
      const { lang = '', text } = any as Tokens.Code;
      return { type: 'code', language: /^[\w+#.-]*/.exec(lang)?.[0].toLowerCase() ?? '', text };
    }
    case 'heading': {
      const { depth, tokens } = any as Tokens.Heading;
      return { type: 'heading', level: depth, kids: inlines(tokens) };
    }
    case 'mathBlock':
      return { type: 'math', text: (any as MathToken).text };
    case 'hr':
      return { type: 'rule' };
    case 'blockquote':
      return { type: 'quote', blocks: blocksOf((any as Tokens.Blockquote).tokens) };
    case 'list': {
      const { ordered, start, items } = any as Tokens.List;
      return {
        type: 'list',
        ordered,
        start: start === '' ? 1 : start,
        items: items.map((item) => ({ checked: item.task ? item.checked === true : null, blocks: blocksOf(item.tokens) })),
      };
    }
    case 'table': {
      const { align, header, rows } = any as Tokens.Table;
      return {
        type: 'table',
        align,
        head: header.map((cell) => inlines(cell.tokens)),
        rows: rows.map((row) => row.map((cell) => inlines(cell.tokens))),
      };
    }
    case 'html':
      return { type: 'paragraph', kids: [{ type: 'text', text: any.raw.trimEnd() }] };
    default:
      return { type: 'paragraph', kids: 'tokens' in any && any.tokens ? inlines(any.tokens) : [{ type: 'text', text: entities(any.raw) }] };
  }
}

function inlines(tokens: readonly Token[]): Inline[] {
  return tokens.flatMap((token): Inline[] => {
    switch (token.type) {
      case 'strong':
      case 'em':
      case 'del':
        return [{ type: token.type, kids: inlines((token as Tokens.Strong).tokens) }];
      case 'codespan':
        return [{ type: 'code', text: (token as Tokens.Codespan).text }];
      case 'math':
        return [{ type: 'math', text: (token as MathToken).text, display: (token as MathToken).display }];
      case 'br':
        return [{ type: 'break' }];
      case 'checkbox':
        return [];
      case 'html':
        return [/^<br\s*\/?>$/i.test(token.raw) ? { type: 'break' } : { type: 'text', text: token.raw }];
      case 'link': {
        const { href, tokens: kids } = token as Tokens.Link;
        const safe = safeLink(href);
        return safe ? [{ type: 'link', href: safe, kids: inlines(kids) }] : inlines(kids);
      }
      case 'image': {
        const { href, text } = token as Tokens.Image;
        if (safeImage(href)) return [{ type: 'image', src: href, alt: text }];
        const safe = safeLink(href);
        const label: Inline = { type: 'text', text: text || 'picture' };
        return safe ? [{ type: 'link', href: safe, kids: [label] }] : [label];
      }
      case 'escape':
        return [{ type: 'text', text: (token as Tokens.Escape).text }];
      default:
        if ('tokens' in token && token.tokens) return inlines(token.tokens);
        return [{ type: 'text', text: entities((token as Tokens.Text).text ?? token.raw) }];
    }
  });
}

/** The address if a link may lead there, else "". */
export function safeLink(href: string): string {
  try {
    const url = new URL(href); // without a base: relative addresses mean nothing in a model's answer
    return ['http:', 'https:', 'mailto:'].includes(url.protocol) ? url.href : '';
  } catch {
    return '';
  }
}

/** Whether a picture may be shown: bytes that are here already, in a format without scripts. */
export function safeImage(src: string): boolean {
  return /^data:image\/(?:png|jpeg|gif|webp|avif);base64,[\w+/=]+$/.test(src);
}

const NAMED: Record<string, string> = {
  amp: '&', lt: '<', gt: '>', quot: '"', apos: "'", nbsp: '\u00a0', ndash: '–', mdash: '—', hellip: '…', copy: '©', reg: '®',
  trade: '™', deg: '°', times: '×', divide: '÷', plusmn: '±', rarr: '→', larr: '←', le: '≤', ge: '≥', ne: '≠', bull: '•', middot: '·',
};

/** Character references as the characters they stand for; unknown ones stay as they are. */
function entities(text: string): string {
  if (!text.includes('&')) return text;
  return text.replace(/&(?:#(\d{1,7})|#x([\da-f]{1,6})|(\w{2,8}));/gi, (whole, decimal?: string, hex?: string, name?: string) => {
    if (name) return NAMED[name] ?? whole;
    const code = decimal ? Number(decimal) : parseInt(hex ?? '', 16);
    return code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code < 0xe000) ? String.fromCodePoint(code) : whole;
  });
}
