import { readFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import type { ActivityAnswer, ActivityRow } from '../types';
import { COLUMNS, USUAL, isChoice, isError, sessionOf, statusText } from './columns';
import { quote, toCurl } from './curl';
import { fileName, toCsv, toMarkdown, toText } from './export';
import { EVERYTHING, filterQuery, fromLocal, isNarrow, isNewestFirst, pageQuery, parseFilter, toLocal } from './filter';

const fixture = new URL('../../../../tests/fixtures/api/activity.json', import.meta.url);
const [first] = (JSON.parse(readFileSync(fixture, 'utf8')) as { examples: [ActivityAnswer] }).examples;
const [good, bad] = first.data as [ActivityRow, ActivityRow];

describe('the filter', () => {
  it('is everything where the address says nothing', () => {
    expect(parseFilter(new URLSearchParams())).toEqual(EVERYTHING);
    expect(filterQuery(EVERYTHING)).toEqual(Object.fromEntries(Object.keys(EVERYTHING).map((key) => [key, null])));
    expect([isNarrow(EVERYTHING), isNewestFirst(EVERYTHING)]).toEqual([false, true]);
  });

  it('comes back from the address it was written to', () => {
    const filter = { ...EVERYTHING, model: 'org/a b&c', status: '4xx', start: '2026-08-01T12:00:00.000Z', sort: 'duration' as const, order: 'asc' as const, page: 3, limit: 100 };
    const query = new URLSearchParams();
    for (const [key, value] of Object.entries(filterQuery(filter))) if (value) query.set(key, value);
    expect(parseFilter(new URLSearchParams(query.toString()))).toEqual(filter);
    expect([isNarrow(filter), isNewestFirst(filter)]).toEqual([true, false]);
  });

  it.each([
    'status=odd', 'status=6xx', 'status=99', 'since=yesterday', 'since=0h', 'since=1w', 'start=2026-13-01T00:00:00Z', 'start=1', 'sort=drop', 'order=up',
    'page=0', 'page=-1', 'page=1.5', 'page=99999999999', 'limit=1000', 'limit=x', 'model=%20',
  ])('ignores %s', (text) => expect(parseFilter(new URLSearchParams(text))).toEqual(EVERYTHING)); // prettier-ignore

  it('has an age or times, not both, and gives times an offset', () => {
    const filter = parseFilter(new URLSearchParams('since=1h&end=2026-08-01T12:00:00%2B02:00'));
    expect([filter.since, filter.end]).toEqual(['', '2026-08-01T10:00:00.000Z']);
    expect(parseFilter(new URLSearchParams('since=90m')).since).toBe('90m');
    expect(fromLocal(toLocal(filter.end))).toBe(filter.end);
    expect([toLocal(''), fromLocal(''), fromLocal('soon')]).toEqual(['', '', '']);
  });

  it('asks the server in its own words', () => {
    const now = Date.parse('2026-08-02T00:00:00Z');
    expect(pageQuery({ ...EVERYTHING, since: '2h', model: 'm' }, now, 7)).toEqual({
      model: 'm', status: null, start: '2026-08-01T22:00:00.000Z', end: null, sort: 'time', order: 'desc', page: 1, limit: 25, max_id: 7,
    }); // prettier-ignore
  });
});

describe('columns', () => {
  it('say what is known', () => {
    const cells = Object.fromEntries(COLUMNS.map((column) => [column.id, column.text(good)]));
    expect(cells).toMatchObject({ model: 'a', requested: 'first', status: '200', in: '120', cached: '12', out: '450', gen_speed: '92.3 t/s', drafted: '–', session: '–' });
    expect(sessionOf({ ...good, metadata: { session_id: 's1' } })).toBe('s1');
  });

  it('name what went wrong', () => {
    expect([good, bad].map(isError)).toEqual([false, true]);
    const of = (resp_status_code: number, error_msg?: string) => statusText({ ...good, resp_status_code, error_msg });
    expect([of(499), of(502), of(200, 'x'), of(0), of(429)]).toEqual(['499 client left', '502', '200 broken', 'no answer', '429 refused']);
    expect(isError({ ...good, error_msg: 'broke off' })).toBe(true);
  });

  it('are chosen from those there are', () => {
    expect(USUAL.length).toBeGreaterThan(8);
    expect([USUAL, ['id'], [], ['nothing'], 'id', null].map(isChoice)).toEqual([true, true, false, false, false, false]);
  });
});

describe('export', () => {
  const odd: ActivityRow = { ...bad, model: '=SUM(A1)', requested: 'a,"b"\nc', error_msg: '|x|\r\n<b>*y*</b>', ttfb_ms: null };

  it('writes CSV that means what the rows say', () => {
    const [head, one, two, end] = toCsv([good, { ...odd, requested: 'a,"b"', error_msg: '-1' }]).split('\r\n');
    expect(head?.split(',').length).toBe(21);
    expect(one).toBe('2,2026-08-01T12:00:00.000Z,a,first,127.0.0.1,,/v1/chat/completions,200,,text/event-stream,120,12,450,,,2210.5,92.25,0.4,0,120.5,4880');
    expect(two).toContain(`,'=SUM(A1),"a,""b""",127.0.0.1,,/v1/chat/completions,502,'-1,`);
    expect(toCsv([odd])).toContain('"a,""b""\nc"');
    expect(two).toMatch(/,0,,4880$/);
    expect(end).toBe('');
  });

  it('writes Markdown in which no cell ends its row', () => {
    const table = toMarkdown([odd], COLUMNS.filter(({ id }) => ['model', 'in', 'error'].includes(id)));
    expect(table).toBe('| Model | In | Error |\n| --- | --: | --- |\n| =SUM(A1) | 120 | \\|x\\| \\<b\\>\\*y\\*\\</b\\> |\n');
  });

  it('writes JSON as it came, and names its file', () => {
    expect(JSON.parse(toText('json', [good, odd], []))).toEqual([good, odd]);
    expect(fileName('csv', new Date(2026, 7, 1, 9, 5))).toBe('llamaswap-activity-2026-08-01-0905.csv');
  });
});

describe('curl', () => {
  it.each(['', 'plain', "it's", '$HOME `id` \\ "x" !', 'a\nb', '-d@file', "''", 'é 中'])('quotes %j so that a shell reads the same', (text) => {
    const said = execFileSync('/bin/sh', ['-c', `printf '%s.' ${quote(text)}`], { encoding: 'utf8' });
    expect(said).toBe(`${text}.`);
  });

  it('leaves to curl what is curl’s, and asks for what was not kept', () => {
    const headers = [['Host', 'x'], ['Content-Length', '2'], ['Content-Type', 'application/json'], ['Authorization', '[REDACTED]'], ['X-Api-Key', '[REDACTED]'], ['Sec-Fetch-Mode', 'cors']] as const;
    expect(toCurl('http://h:1/v1/chat/completions', headers, '{"stream": true, "a": "it\'s"}')).toBe(
      [
        'curl -N http://h:1/v1/chat/completions',
        "-H 'Content-Type: application/json'",
        '-H "Authorization: Bearer $API_KEY"',
        '-H "X-Api-Key: $API_KEY"',
        `--data-raw '{"stream": true, "a": "it'\\''s"}'`,
      ].join(' \\\n  '),
    );
    expect(toCurl('http://h/x', [], null)).toBe('curl http://h/x \\\n  --data-binary @body');
  });
});
