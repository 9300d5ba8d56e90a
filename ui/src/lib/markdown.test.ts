import { describe, expect, it } from 'vitest';
import { GrowingMarkdown, parseMarkdown, safeImage, safeLink, type Block, type Inline } from './markdown';
import { colourCode } from './code';

const inline = (source: string): Inline[] => (parseMarkdown(source)[0] as { kids: Inline[] }).kids;
const text = (value: string): Inline => ({ type: 'text', text: value });

describe('what a model writes stays data', () => {
  it('shows HTML as the text it is', () => {
    expect(inline('a <img src=x onerror=alert(1)> b')).toEqual([text('a '), text('<img src=x onerror=alert(1)>'), text(' b')]);
    expect(parseMarkdown('<script>alert(1)</script>\n')).toEqual([{ type: 'paragraph', kids: [text('<script>alert(1)</script>')] }]);
    expect(inline('a<br/>b')).toEqual([text('a'), { type: 'break' }, text('b')]);
  });
  it.each(['javascript:alert(1)', 'JaVaScRiPt:alert(1)', 'data:text/html,x', 'vbscript:x', '/etc/passwd', 'ui/models', '//evil.example', 'blob:x', 'file:///x', ''])(
    'does not link to %s',
    (href) => {
      expect(safeLink(href)).toBe('');
      expect(inline(`[text](<${href}>)`)).toEqual([text('text')]);
    },
  );
  it('links to the web and to mail', () => {
    expect(inline('[a](https://example.org/x?y=1&z=2)')).toEqual([{ type: 'link', href: 'https://example.org/x?y=1&z=2', kids: [text('a')] }]);
    expect(inline('<me@example.org>')).toEqual([{ type: 'link', href: 'mailto:me@example.org', kids: [text('me@example.org')] }]);
  });
  it('shows only pictures that are here already', () => {
    expect(safeImage('data:image/png;base64,AA==')).toBe(true);
    expect(safeImage('data:image/svg+xml;base64,AA==')).toBe(false);
    expect(inline('![cat](https://example.org/cat.png)')).toEqual([{ type: 'link', href: 'https://example.org/cat.png', kids: [text('cat')] }]);
    expect(inline('![cat](javascript:x)')).toEqual([text('cat')]);
  });
  it('reads character references in text and leaves them alone in code', () => {
    expect(inline('a &lt;b&gt; &amp; &#8364; &#x20ac; &nope; `&amp;`')).toEqual([text('a <b> & € € &nope; '), { type: 'code', text: '&amp;' }]);
    expect(inline('&#0; &#xd800; &#9999999;')).toEqual([text('\ufffd \ufffd \ufffd')]);
  });
});

describe('Markdown', () => {
  it('reads blocks', () => {
    const types = parseMarkdown('# T\n\np\n\n- a\n- b\n\n> q\n\n---\n\n```Py title=x\n1 < 2\n```\n\n|a|b|\n|-|-:|\n|1|2|\n').map(({ type }) => type);
    expect(types).toEqual(['heading', 'paragraph', 'list', 'quote', 'rule', 'code', 'table']);
    expect(parseMarkdown('```C++\nx\n```')).toEqual([{ type: 'code', language: 'c++', text: 'x' }]);
    expect(parseMarkdown('3. a\n4. b')).toMatchObject([{ ordered: true, start: 3, items: [{ checked: null }, { checked: null }] }]);
    expect(parseMarkdown('- [x] a\n- [ ] b')).toMatchObject([{ items: [{ checked: true, blocks: [{ kids: [text('a')] }] }, { checked: false }] }]);
    expect(parseMarkdown('|a|b|\n|-|-:|\n|1|2|\n')).toMatchObject([{ align: [null, 'right'], head: [[text('a')], [text('b')]], rows: [[[text('1')], [text('2')]]] }]);
  });
  it('keeps TeX together, and money', () => {
    expect(inline('so \\(a_1 * b_1\\) and $x^2$.')).toEqual([
      text('so '), { type: 'math', text: 'a_1 * b_1', display: false }, text(' and '), { type: 'math', text: 'x^2', display: false }, text('.'),
    ]);
    expect(parseMarkdown('$$\na_1\n$$\n\nb')[0]).toEqual({ type: 'math', text: 'a_1' });
    expect(parseMarkdown('\\[ x \\]')[0]).toEqual({ type: 'math', text: 'x' });
    expect(inline('from $5 to $10')).toEqual([text('from $5 to $10')]);
  });
});

const SAMPLE = `# One\n\nSome *text* and a [link](https://example.org).\n\n1. first\n\n   \`\`\`js\n   let x = 1;\n\n   let y\n   \`\`\`\n2. second\n   - deep\n\n> quote\n> more\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nTitle\n=====\n\n~~~\ncode # not a heading\n\n~~~\n\n    indented\n\nline  \nbreak \\(x\\)\n\n$$\ny\n$$\n\n<div>\nraw\n</div>\n\nend`;

describe('a text that grows', () => {
  it('reads the same at every length as when read at once', () => {
    const growing = new GrowingMarkdown();
    for (let length = 0; length <= SAMPLE.length; length += 1) {
      const part = SAMPLE.slice(0, length);
      expect(growing.read(part), JSON.stringify(part.slice(-20))).toEqual(parseMarkdown(part));
    }
  });
  it('keeps what is settled as the same objects', () => {
    const growing = new GrowingMarkdown();
    const before = growing.read('one\n\ntwo\n\nthree\n\nfou');
    const after = growing.read('one\n\ntwo\n\nthree\n\nfour\n\nfive');
    expect(after[0]).toBe(before[0]);
    expect(after[1]).toBe(before[1]);
    expect(after).toHaveLength(5);
  });
  it('starts over with another text', () => {
    const growing = new GrowingMarkdown();
    growing.read('one\n\ntwo\n\nthree');
    expect(growing.read('uno\n\ndue')).toEqual(parseMarkdown('uno\n\ndue'));
    expect(growing.read('')).toEqual([]);
  });
  it('knows at its end the links that were defined there', () => {
    const growing = new GrowingMarkdown();
    growing.read('see [x]\n\nmore\n\n[x]: https://example.org');
    const [first] = growing.read('see [x]\n\nmore\n\n[x]: https://example.org', true) as [Block];
    expect(first).toMatchObject({ kids: [text('see '), { type: 'link', href: 'https://example.org/' }] });
  });
});

describe('colours of code', () => {
  const kinds = (source: string, language: string) => colourCode(source, language).filter(({ kind }) => kind).map(({ kind, text: piece }) => `${kind}:${piece}`);
  it.each([
    ['python', 'def f(x):  # why\n  return "a\\"b" + 1.5', ['keyword:def', 'name:f', 'comment:# why', 'keyword:return', 'string:"a\\"b"', 'number:1.5']],
    ['ts', 'const a = `x${1}`; // c\nif (b) f()', ['keyword:const', 'string:`x${1}`', 'comment:// c', 'keyword:if', 'name:f']],
    ['bash', "echo 'a#b' $#  # c", ["keyword:echo", "string:'a#b'", 'comment:# c']],
    ['sql', "SELECT 'it''s' -- c", ['keyword:SELECT', "string:'it''s'", 'comment:-- c']],
    ['html', '<a href="x">t</a>', ['keyword:<a', 'name:href', 'string:"x"', 'keyword:>', 'keyword:</a', 'keyword:>']],
    ['json', '{"a": [1, true]}', ['string:"a"', 'number:1', 'keyword:true']],
    ['diff', '@@ 1 @@\n-a\n+b\n c', ['comment:@@ 1 @@\n', 'removed:-a\n', 'added:+b\n']],
    ['brainfuck', 'if (1) "x"', []],
    ['', 'if (1) "x"', []],
  ])('%s', (language, source, expected) => expect(kinds(source, language)).toEqual(expected));
  it('loses nothing, whatever is cut off', () => {
    const source = 'def f():\n  """doc\n  # not\n  """\n  x = \'open\n  y = 0xff /* " */ `z';
    for (const language of ['python', 'c', 'bash', 'sql', 'yaml', 'lua', 'css', 'html', 'diff', '']) {
      for (let length = 0; length <= source.length; length += 1) {
        expect(colourCode(source.slice(0, length), language).map((piece) => piece.text).join('')).toBe(source.slice(0, length));
      }
    }
  });
});
