import { describe, expect, it } from 'vitest';
import { AnsiParser, PLAIN } from './ansi';
import { LogBuffer, overlap } from './logbuffer';
import { LogLayout } from './loglayout';
import { colours, levelOf, pieces } from './logpieces';
import { compile, matches } from './pattern';
import { RowLayout, rowsOf } from './rows';

const lines = (buffer: LogBuffer) => Array.from({ length: buffer.size }, (_, i) => buffer.line(buffer.first + i)?.text);

describe('AnsiParser', () => {
  const parse = (raw: string) => new AnsiParser().parse(raw);

  it('leaves plain text alone', () => {
    expect(parse('plain\ttext é')).toEqual({ text: 'plain\ttext é', spans: null });
  });
  it('makes spans of colours', () => {
    const { text, spans } = parse('a\x1b[1;31mred\x1b[0m b\x1b[92mg');
    expect(text).toBe('ared bg');
    expect(spans).toEqual([
      { from: 1, to: 4, style: { ...PLAIN, bold: true, fg: 1 } },
      { from: 6, to: 7, style: { ...PLAIN, fg: 10 } },
    ]);
  });
  it('knows 256 colours and true colour, backgrounds and inverse', () => {
    expect(parse('\x1b[38;5;196mx').spans?.[0]?.style.fg).toBe('#ff0000');
    expect(parse('\x1b[38;5;244mx').spans?.[0]?.style.fg).toBe('#808080');
    expect(parse('\x1b[48;2;1;2;300mx').spans?.[0]?.style.bg).toBe('#0102ff');
    expect(parse('\x1b[38;5;3;4mx').spans?.[0]?.style).toEqual({ ...PLAIN, fg: 3, underline: true });
    expect(parse('\x1b[7mx\x1b[27my').spans).toHaveLength(1);
  });
  it('drops everything else', () => {
    expect(parse('\x1b]0;title\x07a\x1b[2Kb\x1b(Bc\x08\x1b[?25hd\x1b').text).toBe('abcd');
  });
  it('carries a style over to the next line', () => {
    const parser = new AnsiParser();
    parser.parse('\x1b[33ma');
    expect(parser.parse('b').spans).toEqual([{ from: 0, to: 1, style: { ...PLAIN, fg: 3 } }]);
    expect(parser.parse('\x1b[mc').spans).toBeNull();
  });
});

describe('LogBuffer', () => {
  it('makes lines of pieces, the unfinished one included', () => {
    const buffer = new LogBuffer();
    buffer.append('one\ntw');
    expect([lines(buffer), buffer.settled, buffer.end]).toEqual([['one', 'tw'], 1, 2]);
    buffer.append('o\r\n\nfour\n');
    expect([lines(buffer), buffer.settled, buffer.end]).toEqual([['one', 'two', '', 'four'], 4, 4]);
  });
  it('lets a lone carriage return begin the line anew', () => {
    const buffer = new LogBuffer();
    buffer.append('10 %\r20 %\r');
    expect(lines(buffer)).toEqual(['20 %']);
    buffer.append('30 %');
    expect(lines(buffer)).toEqual(['30 %']);
    buffer.append('\rdone\n');
    expect(lines(buffer)).toEqual(['done']);
  });
  it('does not take a CRLF that was cut for a new beginning', () => {
    const buffer = new LogBuffer();
    buffer.append('text\r');
    buffer.append('\nnext\n');
    expect(lines(buffer)).toEqual(['text', 'next']);
  });
  it('gives the same lines wherever the text is cut', () => {
    const text = 'a\r\nb\rc\n\x1b[31mred\nrest\x1b[0m\nlast';
    const whole = new LogBuffer();
    whole.append(text);
    for (let cut = 0; cut <= text.length; cut += 1) {
      const buffer = new LogBuffer();
      buffer.append(text.slice(0, cut));
      buffer.append(text.slice(cut));
      expect(lines(buffer)).toEqual(lines(whole));
    }
  });
  it('forgets the oldest, and keeps counting', () => {
    const buffer = new LogBuffer(3);
    for (let i = 0; i < 20_000; i += 1) buffer.append(`${i}\n`);
    expect([lines(buffer), buffer.first, buffer.end]).toEqual([['19997', '19998', '19999'], 19997, 20000]);
    expect(buffer.line(5)).toBeUndefined();
    expect(buffer.text()).toBe('19997\n19998\n19999\n');
  });
  it('cuts a line that does not end', () => {
    const buffer = new LogBuffer();
    for (let i = 0; i < 10; i += 1) buffer.append('x'.repeat(3000));
    expect(buffer.size).toBe(4);
    expect(buffer.text().replaceAll('\n', '')).toHaveLength(30_000);
  });
  it('takes only what is new of a history that is sent again', () => {
    const buffer = new LogBuffer();
    buffer.replay('a\nb\n');
    buffer.append('c\n');
    buffer.replay('b\nc\nd\n');
    expect(lines(buffer)).toEqual(['a', 'b', 'c', 'd']);
    buffer.replay('x\ny\n');
    expect(lines(buffer)).toEqual(['a', 'b', 'c', 'd', 'reconnected; lines may be missing here', 'x', 'y']);
    expect(buffer.line(4)?.gap).toBe(true);
  });
  it('starts over when cleared', () => {
    const buffer = new LogBuffer();
    buffer.append('a\nb');
    buffer.clear();
    buffer.append('c\n');
    expect([lines(buffer), buffer.first]).toEqual([['c'], 2]);
  });
  it('finds overlaps', () => {
    expect(overlap('a\nb\n', 'a\nb\nc\n')).toBe(4);
    expect(overlap('zz\nb\nc\n', 'b\nc\nd\n')).toBe(4);
    expect(overlap('a\n', 'q\n')).toBe(-1);
  });
});

describe('RowLayout', () => {
  it('counts rows', () => {
    const rows = new RowLayout();
    for (const n of [1, 3, 2]) rows.push(n);
    expect([rows.lines, rows.rows, rows.top(0), rows.top(1), rows.top(2), rows.top(3)]).toEqual([3, 6, 0, 1, 4, 6]);
    expect([0, 1, 3, 4, 5, 99].map((row) => rows.at(row))).toEqual([0, 1, 1, 2, 2, 2]);
    expect(rows.shift(1)).toBe(1);
    expect([rows.rows, rows.at(0), rows.top(1)]).toEqual([5, 0, 3]);
    rows.pop();
    rows.push(7);
    expect(rows.rows).toBe(10);
    rows.pop(5);
    expect([rows.lines, rows.rows]).toEqual([0, 0]);
    rows.push(2);
    expect([rows.rows, rows.at(0)]).toEqual([2, 0]);
  });
  it('agrees with plain counting over a long run', () => {
    const rows = new RowLayout();
    let plain: number[] = [];
    for (let i = 0; i < 30_000; i += 1) {
      rows.push((i % 3) + 1);
      plain.push((i % 3) + 1);
      if (plain.length > 1000) {
        rows.shift(1);
        plain = plain.slice(1);
      }
    }
    const total = plain.reduce((a, b) => a + b);
    expect([rows.lines, rows.rows, rows.top(500)]).toEqual([1000, total, plain.slice(0, 500).reduce((a, b) => a + b)]);
  });
  it('knows how many rows text takes', () => {
    expect([rowsOf('', 10), rowsOf('x'.repeat(10), 10), rowsOf('x'.repeat(11), 10), rowsOf('漢字漢字漢字', 10), rowsOf('long', 0)]).toEqual([1, 1, 2, 2, 1]);
  });
});

describe('LogLayout', () => {
  const filled = (count: number, max = 100_000) => {
    const buffer = new LogBuffer(max);
    buffer.append(Array.from({ length: count }, (_, i) => `line ${i}\n`).join(''));
    return buffer;
  };

  it('shows all lines, or those that match', () => {
    const buffer = filled(100);
    const all = new LogLayout(buffer, null, 0);
    const some = new LogLayout(buffer, /7$/, 0);
    expect([all.update(Infinity), some.update(Infinity)]).toEqual([true, true]);
    expect([all.size, all.rows, [...some]]).toEqual([100, 100, [7, 17, 27, 37, 47, 57, 67, 77, 87, 97]]);
  });
  it('looks anew at a line that grows', () => {
    const buffer = filled(1);
    const layout = new LogLayout(buffer, /x/, 10);
    buffer.append('abc');
    layout.update(Infinity);
    expect(layout.size).toBe(0);
    buffer.append('x'.repeat(20));
    layout.update(Infinity);
    expect([layout.size, layout.rows]).toEqual([1, 3]);
    buffer.append('\nno\n');
    layout.update(Infinity);
    expect([...layout]).toEqual([1]);
  });
  it('says how many rows went at the top', () => {
    const buffer = filled(10, 10);
    const layout = new LogLayout(buffer, null, 3);
    layout.update(Infinity);
    expect(layout.rows).toBe(20);
    buffer.append('a\nb\n');
    layout.update(Infinity);
    expect([layout.droppedRows, layout.size, layout.rows, layout.at(0)]).toEqual([4, 10, 18, 2]);
  });
  it('works through many lines in slices, to the same end', () => {
    const buffer = filled(5000);
    const layout = new LogLayout(buffer, /9/, 0);
    let turns = 1;
    while (!layout.update(0)) turns += 1;
    const whole = new LogLayout(buffer, /9/, 0);
    whole.update(Infinity);
    expect(turns).toBeGreaterThan(5);
    expect([...layout]).toEqual([...whole]);
  });
});

describe('patterns', () => {
  it('ignore case unless a capital is typed', () => {
    expect([compile('warn').regex?.flags, compile('Warn').regex?.flags, compile('\\S').regex?.flags]).toEqual(['gi', 'g', 'gi']);
    expect(compile('')).toEqual({ regex: null, error: '' });
    expect(compile('(').regex).toBeNull();
    expect(compile('(').error).not.toMatch(/Invalid regular expression/);
  });
  it('find their places', () => {
    expect(matches(/a+/g, 'aa b a')).toEqual([[0, 2], [5, 6]]);
    expect(matches(/x*/g, 'axx')).toEqual([[1, 3]]);
  });
  it('cut lines into pieces together with styles', () => {
    const { text, spans } = new AnsiParser().parse('ab\x1b[31mcdef');
    const found = pieces({ n: 0, text, spans }, /bcd/g);
    expect(found.map(({ text: piece, style, mark }) => [piece, style?.fg ?? null, mark])).toEqual([
      ['a', null, false], ['b', null, true], ['cd', 1, true], ['ef', 1, false],
    ]);
    expect(colours({ ...PLAIN, fg: 12 })).toEqual({ color: 'var(--ansi-4)', background: null });
  });
  it('know grave lines', () => {
    expect(['[ERROR] x', '12:00 [WARN] y', '0.01.234.567 E z', '[INFO] error'].map(levelOf)).toEqual(['error', 'warn', 'error', null]);
  });
});
