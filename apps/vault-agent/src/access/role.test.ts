import { agentActions } from '@keystead/contracts/agent-api/actions';
import { expect, test } from 'vitest';
import { builtInRole, builtInRoles, Permissions } from './role.ts';

const everywhere = { namespaces: ['*'], secrets: ['*'] };
const of = (...permissions: { actions: string[]; namespaces?: string[]; secrets?: string[] }[]) =>
  new Permissions([
    {
      name: 'own',
      description: '',
      permissions: permissions.map((each) => ({ ...everywhere, ...each })),
    },
  ]);

test('without a permission everything is denied, but who one is', () => {
  const none = new Permissions([]);
  for (const action of agentActions) {
    expect(none.permits(action, {}) !== undefined, action).toBe(action === 'caller.read');
    expect(none.permits(action, { namespace: 'a', secret: 'b' }) !== undefined).toBe(
      action === 'caller.read',
    );
  }
});

test('a permission holds for its actions, its namespaces and its names, all three', () => {
  const own = of({ actions: ['secret.*'], namespaces: ['app-*'], secrets: ['db/*'] });
  const value = (namespace: string, secret: string) =>
    own.permits('secret.read-value', { namespace, secret });
  expect(value('app-one', 'db/password')).toBe('own');
  expect(value('app', 'db/password')).toBeUndefined();
  expect(value('app-one', 'web/password')).toBeUndefined();
  expect(own.permits('namespace.read', { namespace: 'app-one', secret: 'db/x' })).toBeUndefined();
});

test('two permissions do not add up to what neither gives', () => {
  const own = of(
    { actions: ['secret.read-value'], namespaces: ['one'], secrets: ['a'] },
    { actions: ['secret.read-value'], namespaces: ['two'], secrets: ['b'] },
  );
  const value = (namespace: string, secret: string) =>
    own.permits('secret.read-value', { namespace, secret });
  expect(value('one', 'a')).toBe('own');
  expect(value('two', 'b')).toBe('own');
  expect(value('one', 'b')).toBeUndefined();
  expect(value('two', 'a')).toBeUndefined();
});

test('what concerns all namespaces, or a whole one, needs the right to all of it', () => {
  const own = of({ actions: ['*'], namespaces: ['app'], secrets: ['db/*'] });
  expect(own.permits('namespace.list', {})).toBeUndefined();
  expect(own.permits('secret.list', { namespace: 'app' })).toBeUndefined();
  expect(own.permits('access.manage', { other: 'role:x' })).toBeUndefined();
  expect(own.permitsSome('secret.list', { namespace: 'app' })).toBe('own');
  expect(own.permitsSome('secret.list', { namespace: 'other' })).toBeUndefined();
  expect(own.isEverything).toBe(false);
});

test('the namespaces of a key narrow every role it has', () => {
  const admin = new Permissions([builtInRole('admin')!], ['app-*']);
  expect(admin.permits('secret.read-value', { namespace: 'app-1', secret: 'x' })).toBe('admin');
  expect(admin.permits('secret.read-value', { namespace: 'other', secret: 'x' })).toBeUndefined();
  expect(admin.permits('access.manage', {})).toBeUndefined();
  expect(admin.isEverything).toBe(false);
  expect(new Permissions([builtInRole('admin')!]).isEverything).toBe(true);
});

test('of the built-in roles only three read values, and only one manages access', () => {
  const having = (action: (typeof agentActions)[number]) =>
    builtInRoles
      .filter((role) => new Permissions([role]).permits(action, {}) !== undefined)
      .map(({ name }) => name);
  expect(having('secret.read-value')).toEqual(['admin', 'writer', 'reader']);
  expect(having('access.manage')).toEqual(['admin']);
  expect(having('token.read-value')).toEqual(['admin', 'writer', 'reader']);
  expect(having('token.create')).toEqual(['admin', 'writer']);
  expect(having('token.rekey')).toEqual(['admin', 'operator']);
  expect(having('token.delete')).toEqual(['admin']);
  expect(having('secret.destroy')).toEqual(['admin']);
  expect(having('namespace.export')).toEqual(['admin']);
  expect(having('backup.restore')).toEqual(['admin', 'operator']);
  expect(having('audit.read')).toEqual(['admin', 'operator', 'auditor']);
});
