import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { isObject, type Shape } from './shape';
import * as types from './types';

const folder = new URL('../../../tests/fixtures/api/', import.meta.url);
const read = (name: string) => JSON.parse(readFileSync(new URL(name, folder), 'utf8')) as Record<string, unknown>;

/** Each fixture but events.json holds `{"examples": [answer, …]}` of one route. */
const ANSWERS: Record<string, Shape<unknown>> = {
  activity: types.activityAnswer,
  capture: types.captureAnswer,
  config: types.configAnswer,
  error: types.errorAnswer,
  hardware: types.hardwareAnswer,
  load: types.loadAnswer,
  models: types.modelsAnswer,
  performance: types.performanceAnswer,
  stats: types.statsAnswer,
  version: types.versionAnswer,
};

describe('fixtures', () => {
  it('are all known here', () => {
    expect(readdirSync(folder).sort()).toEqual([...Object.keys(ANSWERS), 'events'].map((name) => `${name}.json`).sort());
  });
  it.each(Object.keys(ANSWERS))('%s is as types.ts says', (name) => {
    const examples = read(`${name}.json`).examples as unknown[];
    expect(examples.length).toBeGreaterThan(0);
    expect(examples.flatMap((example) => (ANSWERS[name] as Shape<unknown>).check(example, name))).toEqual([]);
  });

  const events = read('events.json') as Record<string, unknown[]>;
  it('show every event type', () => {
    const old = ['metrics'];
    expect(Object.keys(events).sort()).toEqual(Object.keys(types.eventData).filter((type) => !old.includes(type)).sort());
  });
  it.each(Object.keys(events))('event %s is as types.ts says', (type) => {
    const shape: Shape<unknown> = types.eventData[type as types.EventType];
    expect((events[type] as unknown[]).flatMap((data) => shape.check(data, type))).toEqual([]);
  });
});

describe('shapes', () => {
  it('notice what is missing, too much or of another type', () => {
    const [example] = read('models.json').examples as [Record<string, unknown[]>];
    const first = example.models?.[0];
    if (!isObject(first)) throw new Error('no model');
    const { cmd: _, ...rest } = first;
    expect(types.modelsAnswer.check({ models: [{ ...rest, pid: '1', extra: 1, state: 'odd' }] }, '').sort()).toEqual([
      '.models[0].cmd: missing',
      '.models[0].extra: not described',
      '.models[0].pid: number expected, not "1"',
      '.models[0].state: stopped or starting or ready or stopping or shutdown expected, not "odd"',
    ]);
    expect(types.inflightEvent.check({ operation: 'remove' }, 'x')).not.toEqual([]);
  });
});
