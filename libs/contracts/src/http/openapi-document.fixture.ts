/** What holds of every OpenAPI document of ours. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Validator } from '@seriousme/openapi-schema-validator';
import { expect, test } from 'vitest';
import type { DescribedOperation } from './openapi-parts.ts';

export function checkDocument<One extends DescribedOperation & { tag: string }>(
  describe: () => object,
  snapshot: 'openapi.json' | 'openapi-agent.json',
  operations: readonly One[],
  securityOf: (operation: One) => object[],
): void {
  const document = JSON.parse(JSON.stringify(describe()));

  test('the document is valid OpenAPI 3.1', async () => {
    const validator = new Validator();
    const result = await validator.validate(structuredClone(document));
    expect(result).toMatchObject({ valid: true });
    expect(validator.version).toBe('3.1');
  });

  test('the committed snapshot is what the contract says', () => {
    const file = join(import.meta.dirname, '..', '..', '..', '..', snapshot);
    expect(
      JSON.parse(readFileSync(file, 'utf8')),
      'write it anew: node --conditions=keystead-source tools/openapi.ts --write',
    ).toEqual(document);
  });

  test('every operation is described once, with its security and its answer', () => {
    for (const operation of operations) {
      const described = document.paths[operation.path][operation.method.toLowerCase()];
      expect(described).toMatchObject({ operationId: operation.id, tags: [operation.tag] });
      expect(described.security).toEqual(securityOf(operation));
      expect(Object.keys(described.responses)).toContain(String(operation.status));
      const inPath = [...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      expect(
        described.parameters
          .filter((parameter: { in?: string }) => parameter.in === 'path')
          .map(({ name }: { name: string }) => name)
          .toSorted(),
      ).toEqual(inPath.toSorted());
    }
  });

  test('every reference points to something', () => {
    for (const [, pointer = ''] of JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)) {
      const target = pointer.split('/').reduce((at, key) => at?.[key], document);
      expect(target, pointer).toBeDefined();
    }
  });
}
