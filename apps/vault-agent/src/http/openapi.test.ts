import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { agentOperations } from '@keystead/contracts/agent-api/operations';
import { Validator } from '@seriousme/openapi-schema-validator';
import { expect, test } from 'vitest';
import { agentOpenApiDocument } from './openapi.ts';

const document = JSON.parse(JSON.stringify(agentOpenApiDocument()));

test('the document is valid OpenAPI 3.1', async () => {
  const validator = new Validator();
  const result = await validator.validate(structuredClone(document));
  expect(result).toMatchObject({ valid: true });
  expect(validator.version).toBe('3.1');
});

test('the committed snapshot is what the contract says', () => {
  const file = join(import.meta.dirname, '..', '..', '..', '..', 'openapi-agent.json');
  expect(
    JSON.parse(readFileSync(file, 'utf8')),
    'write it anew: node --conditions=keystead-source tools/openapi.ts --write',
  ).toEqual(document);
});

test('every operation is described once, with its security and its answer', () => {
  for (const operation of agentOperations) {
    const described = document.paths[operation.path][operation.method.toLowerCase()];
    expect(described).toMatchObject({ operationId: operation.id, tags: [operation.tag] });
    expect(described.security.length).toBe(operation.action === 'public' ? 0 : 3);
    expect(Object.keys(described.responses)).toContain(String(operation.status));
    const inPath = [...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
    expect(
      described.parameters
        .filter((parameter: { in?: string }) => parameter.in === 'path')
        .map(({ name }: { name: string }) => name)
        .sort(),
    ).toEqual(inPath.sort());
  }
});

test('every reference points to something', () => {
  for (const [, pointer = ''] of JSON.stringify(document).matchAll(/"\$ref":"#\/([^"]+)"/g)) {
    const target = pointer.split('/').reduce((at, key) => at?.[key], document);
    expect(target, pointer).toBeDefined();
  }
});
