/**
 * openapi.json and openapi-agent.json, the committed snapshots of the public contracts of the control
 * plane and of an agent: a reviewer sees what a change means for callers.
 *
 *   node --conditions=keystead-source tools/openapi.ts --write   writes them
 *   node --conditions=keystead-source tools/openapi.ts           fails when one is not what its contract says
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openApiDocument } from '../apps/gateway/src/rest/openapi.ts';
import { agentOpenApiDocument } from '../apps/vault-agent/src/http/openapi.ts';

const snapshots = { 'openapi.json': openApiDocument, 'openapi-agent.json': agentOpenApiDocument };

for (const [name, describe] of Object.entries(snapshots)) {
  const file = join(import.meta.dirname, '..', name);
  const document = `${JSON.stringify(describe(), null, 2)}\n`;
  if (process.argv.includes('--write')) {
    writeFileSync(file, document);
  } else if (!existsSync(file) || readFileSync(file, 'utf8') !== document) {
    console.error(`${name} is not what the contract says. Write it anew with:`);
    console.error('  node --conditions=keystead-source tools/openapi.ts --write');
    process.exitCode = 1;
  }
}
