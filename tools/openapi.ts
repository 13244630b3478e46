/**
 * openapi.json, the committed snapshot of the public contract: a reviewer sees what a change means
 * for callers.
 *
 *   node --conditions=keystead-source tools/openapi.ts --write   writes it
 *   node --conditions=keystead-source tools/openapi.ts           fails when it is not what the contract says
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openApiDocument } from '../apps/gateway/src/rest/openapi.ts';

const file = join(import.meta.dirname, '..', 'openapi.json');
const document = `${JSON.stringify(openApiDocument(), null, 2)}\n`;
if (process.argv.includes('--write')) {
  writeFileSync(file, document);
} else if (!existsSync(file) || readFileSync(file, 'utf8') !== document) {
  console.error('openapi.json is not what the contract says. Write it anew with:');
  console.error('  node --conditions=keystead-source tools/openapi.ts --write');
  process.exitCode = 1;
}
