import { checkDocument } from '@keystead/contracts/http/openapi-document.fixture';
import { openApiDocument } from './openapi.ts';
import { publicOperations } from './public-operations.ts';

checkDocument(openApiDocument, 'openapi.json', publicOperations, ({ permission }) =>
  permission === 'public' ? [] : [{ session: [] }, { apiKey: [] }],
);
