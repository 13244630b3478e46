/**
 * What a name is called outside: its HMAC-SHA-256 under a key that only the vault's agents have. The same
 * name has the same reference on all of them and for ever; nobody else can say whose it is, nor try names.
 */
import { createHmac, createSecretKey, type KeyObject } from 'node:crypto';

export class NameReferences {
  readonly #key: KeyObject;

  /** @param key 32 bytes derived from the vault's keys */
  constructor(key: Uint8Array) {
    this.#key = createSecretKey(key);
  }

  namespace(name: string): Buffer {
    return this.#reference('namespace', name);
  }

  secret(namespace: string, name: string): Buffer {
    return this.#reference('secret', namespace, name);
  }

  identity(kind: string, id: string): Buffer {
    return this.#reference('identity', kind, id);
  }

  /** Another kind of thing, as the audit names it. */
  other(name: string): Buffer {
    return this.#reference('other', name);
  }

  /** Who did what to what; a resource has as many parts as it has names. */
  decision({
    principal,
    action,
    namespace,
    secret,
  }: {
    principal: { kind: string; id: string };
    action: string;
    namespace: string | undefined;
    secret: string | undefined;
  }): Buffer {
    const resource = [namespace, secret].flatMap((name) => (name === undefined ? [] : [name]));
    return this.#reference('decision', principal.kind, principal.id, action, ...resource);
  }

  /** Every part with its length, so that no two lists of parts are the same bytes. */
  #reference(...parts: string[]): Buffer {
    const hmac = createHmac('sha256', this.#key).update('keystead.name-reference.v1\0');
    for (const part of parts) {
      const bytes = Buffer.from(part);
      const length = Buffer.alloc(4);
      length.writeUInt32BE(bytes.length);
      hmac.update(length).update(bytes);
    }
    return hmac.digest();
  }
}
