/**
 * Certificates for a fleet. Every agent has its own, from the authority under test; key pairs come
 * from a small pool, because making them says nothing about the server.
 */
import { createHash, type KeyObject, X509Certificate } from 'node:crypto';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import { enroll } from '@keystead/agent-protocol/link-client';

export interface FleetIdentity {
  /** vlt_…, as in the envelope. */
  vaultId: string;
  /** agt_… */
  agentId: string;
  /** PEM: leaf and intermediate. */
  certificateChain: string;
  privateKey: string;
}

export interface EnrolmentTarget {
  host: string;
  port: number;
  caFingerprint: string;
  /** With as many uses left as agents are to be enrolled. */
  token: string;
}

export class KeyPool {
  readonly #keys: Promise<KeyObject>[];
  #next = 0;

  constructor(size = 16) {
    this.#keys = Array.from({ length: size }, () => generateAgentKey());
  }

  next(): Promise<KeyObject> {
    this.#next = (this.#next + 1) % this.#keys.length;
    return this.#keys[this.#next] as Promise<KeyObject>;
  }
}

/** Enrols agents through the front door, a few at a time. Answers them with the root they trust. */
export async function enrollFleet(
  target: EnrolmentTarget,
  count: number,
  nameOf: (index: number) => { vaultName: string; agentName: string },
  atOnce = 16,
): Promise<{ identities: FleetIdentity[]; root: string }> {
  const pool = new KeyPool();
  const identities: FleetIdentity[] = [];
  let root = '';
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const index = next;
      next += 1;
      const key = await pool.next();
      const response = await enroll(target, target.caFingerprint, {
        version: '1.0',
        token: target.token,
        certificateRequest: createCertificateRequest(key),
        agentVersion: '0.1.0',
        host: undefined,
        ...nameOf(index),
      });
      root = pemOf(response.rootCertificate);
      identities[index] = {
        vaultId: response.vaultId,
        agentId: response.agentId,
        certificateChain: response.certificateChain.map(pemOf).join(''),
        privateKey: key.export({ type: 'pkcs8', format: 'pem' }) as string,
      };
    }
  };
  await Promise.all(Array.from({ length: Math.min(atOnce, count) }, worker));
  return { identities, root };
}

function pemOf(der: Uint8Array): string {
  return new X509Certificate(der).toString();
}

/** A stable pseudo-random number from 0 to 1 for an agent, so that runs repeat. */
export function fractionOf(agentId: string, salt: string): number {
  return createHash('sha256').update(`${salt} ${agentId}`).digest().readUInt32BE(0) / 2 ** 32;
}
