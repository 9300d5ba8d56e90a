/** Colours for code in a hundred lines: comments, strings, numbers and keywords of the common families, not a grammar. */

export type CodeKind = '' | 'comment' | 'string' | 'number' | 'keyword' | 'name' | 'added' | 'removed';
export interface CodePiece {
  kind: CodeKind;
  text: string;
}

interface Family {
  comment: string;
  string: string;
  words: string;
  ignoreCase?: boolean;
}

const QUOTES = String.raw`"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?`;
const C_COMMENT = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`;
const HASH = String.raw`#[^\n]*`;

const C_WORDS =
  'abstract as async await auto bool boolean break byte case catch char class const constexpr continue crate debugger default defer delete do ' +
  'double else enum explicit export extends extern false final finally float fn for foreach from func function get go goto if impl implements ' +
  'import in inline instanceof int interface internal is let long loop match mod module move mut namespace new nil none null nullptr operator ' +
  'override package private protected pub public readonly ref return self set short signed sizeof static string struct super switch template this ' +
  'throw throws trait true try type typedef typeof undefined union unsafe unsigned use using val var virtual void volatile when where while with yield';

const FAMILIES: Record<string, Family> = {
  c: { comment: C_COMMENT, string: `${QUOTES}|\`(?:[^\`\\\\]|\\\\.)*\`?`, words: C_WORDS },
  python: {
    comment: HASH,
    string: String.raw`[rbfu]{0,2}(?:"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)|${QUOTES})`,
    words:
      'and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None ' +
      'nonlocal not or pass raise return self True try while with yield begin do end elsif ensure module nil require rescue then unless until when puts',
  },
  shell: {
    comment: String.raw`(?<![^\s;])#[^\n]*`,
    string: QUOTES.replace('[^"\\\\\\n]', '[^"\\\\]').replace("[^'\\\\\\n]|\\\\.", "[^']"),
    words:
      'if then else elif fi for while until do done case esac in function return export local readonly set unset cd echo sudo source exit true false ' +
      'FROM RUN CMD COPY ADD ENV ARG WORKDIR ENTRYPOINT EXPOSE',
  },
  sql: {
    comment: String.raw`--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`,
    string: String.raw`'(?:[^']|'')*'?|"[^"\n]*"?`,
    words:
      'add all alter and as asc avg between by case check column constraint count create cross default delete desc distinct drop else end exists ' +
      'false foreign from full group having if in index inner insert into is join key left like limit max min not null offset on or order outer primary ' +
      'references returning right select set sum table then true union unique update using values view when where with',
    ignoreCase: true,
  },
  data: { comment: String.raw`(?<![^\s])#[^\n]*|^\s*;[^\n]*`, string: QUOTES, words: 'true false null yes no on off' },
  lua: {
    comment: String.raw`--\[\[[\s\S]*?(?:\]\]|$)|--[^\n]*|\{-[\s\S]*?(?:-\}|$)`,
    string: QUOTES,
    words: 'and break case class data deriving do else elseif end false for function goto if import in instance let local module nil not of or repeat return then true type until where while',
  },
  css: { comment: C_COMMENT.slice(C_COMMENT.indexOf('|') + 1), string: QUOTES, words: '@media @import @supports @keyframes @layer @container @font-face !important' },
};

const NAMES: Record<string, string> = Object.fromEntries(
  Object.entries({
    c: 'c h cc cpp c++ cxx hpp cs csharp c# java js javascript jsx mjs ts typescript tsx go golang rust rs swift kotlin kt scala php dart zig glsl wgsl hlsl cuda cu objc groovy proto solidity v',
    python: 'python py py3 python3 ruby rb gdscript nim starlark bazel julia jl r elixir ex',
    shell: 'sh bash zsh shell fish console dockerfile docker make makefile powershell ps1 terminal shellsession nix',
    sql: 'sql sqlite mysql postgresql postgres plsql duckdb',
    data: 'json jsonc json5 yaml yml toml ini conf properties env hcl terraform',
    lua: 'lua haskell hs elm ada',
    css: 'css scss less sass',
  }).flatMap(([family, names]) => names.split(' ').map((name) => [name, family])),
);

const patterns = new Map<string, RegExp>();

function pattern(name: string, family: Family): RegExp {
  let found = patterns.get(name);
  if (!found) {
    const word = (text: string) => text.replace(/[+*?.()[\]]/g, '\\$&');
    const words = family.words.split(' ').map(word).join('|');
    found = new RegExp(
      `(?<comment>${family.comment})|(?<string>${family.string})|(?<number>\\b(?:0x[\\da-f_]+|\\d[\\d_]*(?:\\.\\d+)?(?:e[+-]?\\d+)?)\\b)|` +
        `(?<keyword>(?<![\\w.$-])(?:${words})(?![\\w-]))|(?<name>[A-Za-z_]\\w*(?=\\())`,
      `gm${family.ignoreCase ? 'i' : ''}`,
    );
    patterns.set(name, found);
  }
  return found;
}

const MARKUP = /(?<comment><!--[\s\S]*?(?:-->|$))|(?<keyword><\/?[A-Za-z][\w:.-]*|\/?>)|(?<string>"[^"]*"|'[^']*')|(?<name>[\w:@.-]+(?==["'{]))/gm;
const LIMIT = 60_000;

/** The code cut into pieces with their kinds; whole if the language is not known (or nothing is said of it) or it is very long. */
export function colourCode(text: string, language: string): CodePiece[] {
  if (text.length > LIMIT) return [{ kind: '', text }];
  if (language === 'diff' || language === 'patch') return diff(text);
  if (/^(html|xml|svg|vue|svelte|xhtml|jinja|handlebars)$/.test(language)) return cut(text, MARKUP);
  const family = NAMES[language];
  return family ? cut(text, pattern(family, FAMILIES[family] as Family)) : [{ kind: '', text }];
}

function cut(text: string, expression: RegExp): CodePiece[] {
  const pieces: CodePiece[] = [];
  let end = 0;
  for (const match of text.matchAll(expression)) {
    if (!match[0]) continue;
    if (match.index > end) pieces.push({ kind: '', text: text.slice(end, match.index) });
    const kind = Object.entries(match.groups ?? {}).find(([, found]) => found !== undefined)?.[0] as CodeKind;
    pieces.push({ kind, text: match[0] });
    end = match.index + match[0].length;
  }
  if (end < text.length || !pieces.length) pieces.push({ kind: '', text: text.slice(end) });
  return pieces;
}

function diff(text: string): CodePiece[] {
  return text.split(/(?<=\n)/).map((line) => ({
    kind: /^\+(?!\+\+)/.test(line) ? 'added' : /^-(?!--)/.test(line) ? 'removed' : /^(@@|diff |index |\+\+\+|---)/.test(line) ? 'comment' : '',
    text: line,
  }));
}
