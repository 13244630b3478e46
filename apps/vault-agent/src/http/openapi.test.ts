import { agentOperations } from '@keystead/contracts/agent-api/operations';
import { checkDocument } from '@keystead/contracts/http/openapi-document.fixture';
import { agentOpenApiDocument } from './openapi.ts';

checkDocument(agentOpenApiDocument, 'openapi-agent.json', agentOperations, ({ action }) =>
  action === 'public' ? [] : [{ apiKey: [] }, { token: [] }, { clientCertificate: [] }],
);
