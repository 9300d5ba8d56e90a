/**
 * Descriptions of JSON that are TypeScript types and run-time checks in one: the types of events and answers
 * stand once (types.ts), and tests check recorded answers against them.
 */

/** Says where `value` is not as described; nothing if it is. */
export type Check = (value: unknown, path: string) => string[];
export interface Shape<T> {
  check: Check;
  /** Only for the compiler; never set. */
  type?: T;
}
export type Infer<S> = S extends Shape<infer T> ? T : never;

const wrong = (path: string, wanted: string, value: unknown): string[] => [
  `${path || 'value'}: ${wanted} expected, not ${JSON.stringify(value)?.slice(0, 60) ?? 'nothing'}`,
];

function primitive<T>(name: 'string' | 'number' | 'boolean'): Shape<T> {
  return { check: (value, path) => (typeof value === name ? [] : wrong(path, name, value)) };
}

export const str = primitive<string>('string');
export const num = primitive<number>('number');
export const bool = primitive<boolean>('boolean');
/** Anything that JSON can say. */
export const any: Shape<unknown> = { check: () => [] };

export function lit<const T extends readonly (string | number)[]>(...values: T): Shape<T[number]> {
  return {
    check: (value, path) => (values.includes(value as never) ? [] : wrong(path, values.join(' or '), value)),
  };
}

export function nul<T>(inner: Shape<T>): Shape<T | null> {
  return { check: (value, path) => (value === null ? [] : inner.check(value, path)) };
}

export function arr<T>(inner: Shape<T>): Shape<T[]> {
  return {
    check: (value, path) =>
      Array.isArray(value) ? value.flatMap((item, i) => inner.check(item, `${path}[${i}]`)) : wrong(path, 'a list', value),
  };
}

/** An object used as a dictionary. */
export function rec<T>(inner: Shape<T>): Shape<Record<string, T>> {
  return {
    check: (value, path) =>
      isObject(value)
        ? Object.entries(value).flatMap(([key, item]) => inner.check(item, `${path}.${key}`))
        : wrong(path, 'an object', value),
  };
}

/** Marks a key of `obj` that may be missing. */
export interface Optional<T> extends Shape<T> {
  optional: true;
}
export function opt<T>(inner: Shape<T>): Optional<T> {
  return { check: inner.check, optional: true };
}

type Fields = Record<string, Shape<unknown>>;
type OptionalKeys<F> = { [K in keyof F]: F[K] extends Optional<unknown> ? K : never }[keyof F];
type Flat<T> = { [K in keyof T]: T[K] };
type Obj<F extends Fields> = Flat<
  { [K in Exclude<keyof F, OptionalKeys<F>>]: Infer<F[K]> } & { [K in OptionalKeys<F>]?: Infer<F[K]> | undefined }
>;

/** An object with these keys and no others: a key nobody described is a mistake of the description. */
export function obj<F extends Fields>(fields: F): Shape<Obj<F>> {
  return {
    check: (value, path) => {
      if (!isObject(value)) return wrong(path, 'an object', value);
      const problems = Object.keys(value)
        .filter((key) => !(key in fields))
        .map((key) => `${path}.${key}: not described`);
      for (const [key, shape] of Object.entries(fields)) {
        if (key in value) problems.push(...shape.check(value[key], `${path}.${key}`));
        else if (!('optional' in shape)) problems.push(`${path}.${key}: missing`);
      }
      return problems;
    },
  };
}

/** One of several shapes; complains as the nearest one does. */
export function union<S extends readonly Shape<unknown>[]>(...shapes: S): Shape<Infer<S[number]>> {
  return {
    check: (value, path) => {
      let fewest: string[] | undefined;
      for (const shape of shapes) {
        const problems = shape.check(value, path);
        if (!problems.length) return problems;
        if (!fewest || problems.length < fewest.length) fewest = problems;
      }
      return fewest ?? [];
    },
  };
}

export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
