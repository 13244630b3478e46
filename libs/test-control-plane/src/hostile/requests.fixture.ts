/** Requests drawn from the contract: what it accepts, and that with something of it spoilt. */
import fc from 'fast-check';
import { z } from 'zod';

interface JsonSchema {
  [key: string]: unknown;
}

/** What an operation declares, of the control plane or of an agent. */
export interface Operation {
  method: string;
  path: string;
  params: z.ZodType;
  query: z.ZodType;
  body: z.ZodType;
  ifMatch: string;
  /** `in`: its body is bytes. */
  streams?: string;
}

export interface DrawnRequest {
  method: string;
  target: string;
  headers: Record<string, string>;
  body: Buffer | undefined;
}

const id = '01h455vb4pex5vsknk084sn02q';

/** Texts that have broken programs before. */
const naughty = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  '\udfff\ud800',
  '\u202eevil',
  '\uffff',
  '😀'.repeat(50),
  'ﷺ'.repeat(100),
  "' or 1=1 --",
  '"; drop table registry.vault; --',
  '{{7*7}}',
  '<script>alert(1)</script>',
  '../../etc/passwd',
  '%s%n',
  '__proto__',
  'constructor',
  'toString',
  'NaN',
  'Infinity',
  '-1',
  '1e999',
  '0x10',
  '9'.repeat(400),
  'true',
  'null',
  'undefined',
  '2026-02-30T00:00:00Z',
  '9999-99-99T99:99:99Z',
  '+275760-09-13T00:00:00.001Z',
  'a'.repeat(1_500),
  'http://[::1]:99999/',
  'ﬀ@ﬀ.ﬀ',
  '*',
  ',',
  ',,,,',
];
const naughtyText = fc.oneof(
  fc.constantFrom(...naughty),
  fc.string({ unit: 'binary', maxLength: 40 }),
);
const naughtyValue: fc.Arbitrary<unknown> = fc.oneof(
  naughtyText,
  fc.constantFrom(
    null,
    true,
    -1,
    0,
    1.5,
    1e308,
    Number.MAX_SAFE_INTEGER,
    2 ** 31,
    -(2 ** 63),
    [],
    {},
    [[]],
    { __proto__: null, a: 1 },
    { constructor: { prototype: {} } },
  ),
  fc.jsonValue({ maxDepth: 3 }),
  fc.array(fc.constant('x'), { minLength: 300, maxLength: 400 }),
);

/** Ids by their prefix, where a request should name something that is there. */
export type KnownIds = ReadonlyMap<string, string>;
const noIds: KnownIds = new Map();

/** What a schema accepts, nearly always. */
function accepted(schema: JsonSchema | boolean, known: KnownIds): fc.Arbitrary<unknown> {
  // In JSON Schema `true` accepts anything, and nothing makes what `false` accepts.
  if (typeof schema === 'boolean') return fc.jsonValue();
  const choices = (schema.anyOf ?? schema.oneOf) as JsonSchema[] | undefined;
  if (choices) return fc.oneof(...choices.map((choice) => accepted(choice, known)));
  if ('const' in schema) return fc.constant(schema.const);
  if (Array.isArray(schema.enum)) return fc.constantFrom(...(schema.enum as unknown[]));
  switch (schema.type) {
    case 'object': {
      const properties = (schema.properties ?? {}) as Record<string, JsonSchema>;
      return fc.record(
        Object.fromEntries(
          Object.entries(properties).map(([name, property]) => [name, accepted(property, known)]),
        ),
        { requiredKeys: ((schema.required ?? []) as string[]).filter((key) => key in properties) },
      );
    }
    case 'array':
      return fc.array(accepted((schema.items ?? {}) as JsonSchema, known), {
        minLength: 1,
        maxLength: 4,
      });
    case 'string': {
      const pattern = String(schema.pattern ?? '');
      const prefix = /^\^([a-z]+)_/.exec(pattern)?.[1];
      if (prefix) return fc.constant(known.get(prefix) ?? `${prefix}_${id}`);
      if (schema.format === 'date-time') return fc.constant('2026-11-21T07:01:19.419Z');
      if (schema.format === 'email') return fc.constant('ann@keystead.test');
      return fc.constantFrom('production', 'a-name-of-a-thing', 'ann@keystead.test');
    }
    case 'integer':
    case 'number':
      return fc.integer({
        min: Math.ceil(Math.max(Number(schema.minimum ?? 0), -1_000)),
        max: Math.floor(Math.min(Number(schema.maximum ?? 1_000), 100_000)),
      });
    case 'boolean':
      return fc.boolean();
    case 'null':
      return fc.constant(null);
    default:
      return fc.jsonValue();
  }
}

/** The value with one place of it replaced, added or taken away. */
function spoilt(value: unknown): fc.Arbitrary<unknown> {
  if (typeof value !== 'object' || value === null) return naughtyValue;
  const keys = Object.keys(value);
  return fc.oneof(
    naughtyValue,
    fc
      .tuple(fc.constantFrom(...(keys.length > 0 ? keys : ['x'])), naughtyValue)
      .map(([key, bad]) => replaced(value, key, bad)),
    fc
      .tuple(fc.constantFrom(...(keys.length > 0 ? keys : ['x'])), fc.nat(3))
      .chain(([key]) =>
        spoilt((value as Record<string, unknown>)[key]).map((bad) => replaced(value, key, bad)),
      ),
    fc.tuple(naughtyText, naughtyValue).map(([key, bad]) => replaced(value, key, bad)),
    fc.constantFrom(...(keys.length > 0 ? keys : ['x'])).map((key) => {
      const { [key]: _gone, ...rest } = value as Record<string, unknown>;
      return rest;
    }),
  );
}

function replaced(value: object, key: string, bad: unknown): unknown {
  if (Array.isArray(value)) return [...value, bad];
  const copy = { ...value };
  Object.defineProperty(copy, key, { value: bad, enumerable: true, configurable: true });
  return copy;
}

function bodyOf(operation: Operation, known: KnownIds): fc.Arbitrary<Buffer | undefined> {
  if (operation.method === 'GET') return fc.constant(undefined);
  if (operation.streams === 'in') {
    return fc.uint8Array({ maxLength: 2_000 }).map((bytes) => Buffer.from(bytes));
  }
  const schema = z.toJSONSchema(operation.body, { io: 'input' }) as JsonSchema;
  const good = accepted(schema, known);
  const json = (value: unknown) => Buffer.from(JSON.stringify(value) ?? '');
  return fc.oneof(
    { weight: 3, arbitrary: good.map(json) },
    { weight: 6, arbitrary: good.chain(spoilt).map(json) },
    { weight: 1, arbitrary: fc.constant(undefined) },
    {
      weight: 1,
      arbitrary: good.chain((value) =>
        fc.nat(200).map((length) => json(value).subarray(0, length)),
      ),
    },
    { weight: 1, arbitrary: fc.uint8Array({ maxLength: 100 }).map((bytes) => Buffer.from(bytes)) },
    {
      weight: 1,
      arbitrary: fc.constantFrom(
        Buffer.from('['.repeat(10_000)),
        Buffer.from(`${'{"a":'.repeat(1_000)}1${'}'.repeat(1_000)}`),
        Buffer.from('{"__proto__":{"x":1}}'),
        Buffer.from('{"name":"\\ud800"}'),
        Buffer.alloc(300 * 1024, 0x20),
      ),
    },
  );
}

/** Percent-encoded as it comes, and sometimes not encoded at all, or wrongly. */
const written = (text: string) =>
  fc.oneof(
    { weight: 4, arbitrary: fc.constant(encodeURIComponent(text.toWellFormed())) },
    {
      weight: 1,
      arbitrary: fc.constantFrom('%', '%zz', '%00', '%c3', '%ED%A0%80', '+', '%2F', '%252e'),
    },
  );

function targetOf(operation: Operation, known: KnownIds): fc.Arbitrary<string> {
  const schema = z.toJSONSchema(operation.query, { io: 'input' }) as JsonSchema;
  const names = Object.keys((schema.properties ?? {}) as object);
  const parameters = z.toJSONSchema(operation.params, { io: 'input' }) as JsonSchema;
  const path = accepted(parameters, known).chain((good) => {
    const parts = Object.entries((good ?? {}) as Record<string, unknown>);
    return fc
      .tuple(
        ...parts.map(([part, value]) =>
          fc
            .oneof(
              {
                weight: 2 + parts.length,
                arbitrary: fc.constant(encodeURIComponent(String(value))),
              },
              { weight: 1, arbitrary: naughtyText.chain(written) },
            )
            .map((text) => [part, text] as const),
        ),
      )
      .map((texts) =>
        texts.reduce(
          (filled, [part, text]) => filled.replace(`{${part}}`, () => text),
          operation.path,
        ),
      );
  });
  const name = fc.oneof(
    { weight: 4, arbitrary: names.length > 0 ? fc.constantFrom(...names) : fc.constant('x') },
    { weight: 1, arbitrary: naughtyText.chain(written) },
  );
  const value = fc.oneof(
    fc.constantFrom('1', '50', 'name', '-name', 'open', 'true', 'online,late', `vlt_${id}`),
    naughtyText.chain(written),
  );
  const query = fc
    .array(fc.tuple(name, value), { maxLength: 4 })
    .map((pairs) => pairs.map(([key, text]) => `${key}=${text}`).join('&'));
  return fc.tuple(path, query).map(([filled, text]) => `${filled}${text === '' ? '' : `?${text}`}`);
}

/** What fits into a header at all; Node refuses to send the rest. */
const headerText = naughtyText.map((text) =>
  text.replaceAll(/[^\t\x20-\x7e\x80-\xff]/g, '').slice(0, 2_000),
);

function headersOf(operation: Operation): fc.Arbitrary<Record<string, string>> {
  const rarely = (arbitrary: fc.Arbitrary<string>) =>
    fc.option(arbitrary, { freq: 4, nil: undefined });
  return fc
    .record({
      'content-type': fc.oneof(
        {
          weight: 10,
          arbitrary: fc.constant(
            operation.streams === 'in' ? 'application/octet-stream' : 'application/json',
          ),
        },
        { weight: 1, arbitrary: headerText },
        {
          weight: 1,
          arbitrary: fc.constantFrom(
            'text/plain',
            'multipart/form-data',
            'application/json;;=,',
            'application/octet-stream',
          ),
        },
      ),
      'if-match': fc.oneof(
        { weight: 5, arbitrary: fc.constant(operation.ifMatch === 'required' ? '*' : undefined) },
        { weight: 1, arbitrary: headerText },
      ),
      'idempotency-key': rarely(headerText),
      'x-request-id': rarely(headerText),
      traceparent: rarely(headerText),
      'user-agent': rarely(headerText),
      'last-event-id': rarely(headerText),
      accept: rarely(headerText),
      origin: rarely(headerText),
    })
    .map((headers) =>
      Object.fromEntries(
        Object.entries(headers).filter(
          (entry): entry is [string, string] => entry[1] !== undefined,
        ),
      ),
    );
}

export function requestsOf(
  operation: Operation,
  known: KnownIds = noIds,
): fc.Arbitrary<DrawnRequest> {
  return fc.record({
    method: fc.constant(operation.method),
    target: targetOf(operation, known),
    headers: headersOf(operation),
    body: bodyOf(operation, known),
  });
}

/** A request that the contract accepts, the same each time. */
export function acceptedRequest(operation: Operation, known: KnownIds): DrawnRequest {
  const of = (schema: z.ZodType) => {
    const drawn = fc.sample(
      accepted(z.toJSONSchema(schema, { io: 'input' }) as JsonSchema, known),
      {
        numRuns: 200,
        seed: 1,
      },
    );
    return drawn.find((value) => schema.safeParse(value).success);
  };
  const named = Object.entries((of(operation.params) ?? {}) as Record<string, unknown>);
  return {
    method: operation.method,
    target: named.reduce(
      (path, [name, value]) =>
        // A number in a path counts versions: the first is the one that is there.
        path.replace(`{${name}}`, () =>
          encodeURIComponent(String(typeof value === 'number' ? 1 : value)),
        ),
      operation.path,
    ),
    headers: { 'content-type': 'application/json', 'if-match': '*' },
    body: operation.method === 'GET' ? undefined : Buffer.from(JSON.stringify(of(operation.body))),
  };
}
