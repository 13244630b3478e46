import { createHash } from 'node:crypto';
import * as records from '@keystead/contracts/agent-api/records';
import * as contract from '@keystead/contracts/agent-api/tokens';
import type { AlsoNeeded } from '../access/door.ts';
import { type AgentHandler, handler } from '../http/handler.ts';
import type { TokenVault } from './token-vault.ts';
import { tokenVaultLimits } from './token-vault-limits.ts';

/** A token opens nothing without its password, but its first letters are enough to tell it by. */
const referenceOf = (token: string) =>
  createHash('sha256').update(token).digest('hex').slice(0, 16);
const nameOf = (token: string) => `token:${referenceOf(token)}`;
const about = ({ body }: { body: { token: string } }) => ({ other: nameOf(body.token) });
const aboutSome = ({ body }: { body: { tokens: readonly string[] } }) => ({
  other: body.tokens.length === 1 ? nameOf(body.tokens[0] as string) : 'tokens',
});
/**
 * Which tokens, in the audit: as many references as an entry has room for, and the hash of all of them,
 * sorted, a line each, so that a list that somebody has can be compared.
 */
export const whichTokens = ({ body }: { body: { tokens: readonly string[] } }) => {
  const references = [...new Set(body.tokens)].map(referenceOf).sort();
  const all = createHash('sha256').update(references.join('\n')).digest('hex');
  const context: Record<string, string | number> = { tokens: references.length, allTokens: all };
  const { referencesInAText, referencesMax } = tokenVaultLimits;
  const named = references.slice(0, referencesMax);
  for (let at = 0; at < named.length; at += referencesInAText) {
    context[`tokens${at + 1}`] = named.slice(at, at + referencesInAText).join(' ');
  }
  return context;
};
const aboutRecord = ({ params }: { params: { id: string } }) => ({ other: `record:${params.id}` });
const aboutRun = ({ params }: { params: { id: string } }) => ({ other: `rekey:${params.id}` });

/** Policies tell no record from another: where they hide one, there is nothing to list. */
const readsRecords: AlsoNeeded[] = [{ action: 'record.read', resource: {}, by: 'policies' }];

export function tokenHandlers(tokens: TokenVault): AgentHandler[] {
  return [
    handler(contract.createToken, {
      resource: ({ body }) => (body.token === undefined ? {} : { other: nameOf(body.token) }),
      run: (_caller, { body }) => tokens.create(body),
    }),
    handler(contract.readToken, {
      resource: about,
      run: (caller, { body }) => tokens.readValue(caller, body),
    }),
    handler(contract.readTokens, {
      resource: aboutSome,
      context: whichTokens,
      run: (caller, { body }) => tokens.readValues(caller, body),
    }),
    handler(contract.tokenExists, {
      resource: about,
      run: (_caller, { body }) => tokens.exists(body.token),
    }),
    handler(contract.updateToken, {
      resource: about,
      run: (caller, { body }) => tokens.update(caller, body),
    }),
    handler(contract.upsertToken, {
      resource: about,
      also: (input) => [{ action: 'token.create', resource: about(input) }],
      run: (caller, { body }) => tokens.upsert(caller, body),
    }),
    handler(contract.renewToken, {
      resource: about,
      run: (_caller, { body }) => tokens.renew(body.token, body.expiresAt),
    }),
    handler(contract.changeTokenPasswords, {
      resource: aboutSome,
      context: whichTokens,
      run: (caller, { body }) => tokens.changePassword(caller, body),
    }),
    handler(contract.softDeleteToken, {
      resource: about,
      run: (_caller, { body }) => tokens.softDelete({ token: body.token }),
    }),
    handler(contract.restoreToken, {
      resource: about,
      run: (_caller, { body }) => tokens.restore(body.token),
    }),
    handler(contract.deleteToken, {
      resource: about,
      run: (_caller, { body }) => tokens.delete({ token: body.token }),
    }),
    handler(contract.sweepTokens, {
      resource: () => ({ other: 'tokens' }),
      run: (_caller, { body }) => tokens.sweep(body.mode, body.graceSeconds * 1_000),
    }),
    handler(contract.startRekey, {
      resource: () => ({ other: 'tokens' }),
      run: (caller, { body }) => tokens.rekey(caller, body),
    }),
    handler(contract.startUpgrade, {
      resource: () => ({ other: 'tokens' }),
      run: (caller, { body }) => tokens.upgrade(caller, body),
    }),
    handler(contract.listRekeys, {
      resource: () => ({ other: 'tokens' }),
      run: async () => ({ items: await tokens.runs.list() }),
    }),
    handler(contract.readRekey, {
      resource: aboutRun,
      run: (_caller, { params }) => tokens.runs.get(params.id),
    }),
    handler(contract.abortRekey, {
      resource: aboutRun,
      run: (_caller, { params }) => tokens.runs.abort(params.id),
    }),
    handler(records.createRecord, {
      resource: ({ body }) => (body.id === undefined ? {} : { other: `record:${body.id}` }),
      run: (_caller, { body }) => tokens.create(body),
    }),
    handler(records.listRecords, {
      also: () => readsRecords,
      run: (_caller, { query }) => tokens.list(query),
    }),
    handler(records.countRecords, {
      also: () => readsRecords,
      run: (_caller, { query }) => tokens.count(query),
    }),
    handler(records.readRecord, {
      resource: aboutRecord,
      run: (_caller, { params }) => tokens.get(params.id),
    }),
    handler(records.updateRecord, {
      resource: aboutRecord,
      run: (_caller, { params, body }) => tokens.updateRecord(params.id, body),
    }),
    handler(records.deleteRecord, {
      resource: aboutRecord,
      run: (_caller, { params, query }) =>
        query.mode === 'hard'
          ? tokens.delete({ id: params.id })
          : tokens.softDelete({ id: params.id }),
    }),
    handler(records.restoreRecord, {
      resource: aboutRecord,
      run: (_caller, { params }) => tokens.restoreRecord(params.id),
    }),
  ];
}
