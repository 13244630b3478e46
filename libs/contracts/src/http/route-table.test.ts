import { expect, test } from 'vitest';
import { RouteTable } from './route-table.ts';

test('a path is told with the methods it is offered with, whatever its parameters', () => {
  const routes = new RouteTable();
  routes.add(['GET', 'HEAD'], '/v1/vaults');
  routes.add(['POST'], '/v1/vaults');
  routes.add(['PATCH'], '/v1/vaults/:id');
  expect(routes.methodsOf('/v1/vaults?x=1')).toEqual(['GET', 'HEAD', 'POST']);
  expect(routes.methodsOf('/v1/vaults/vlt_1')).toEqual(['PATCH']);
  expect(routes.methodsOf('/v1/vaults/')).toEqual([]);
  expect(routes.methodsOf('/v1/vaults/vlt_1/agents')).toEqual([]);
  expect(routes.methodsOf('')).toEqual([]);
});
