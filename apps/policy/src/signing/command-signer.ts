/**
 * Signs what agents are told to do. The key lives in this process alone; its certificate is asked for
 * when it is first needed, and again at half of its life.
 */
import { type KeyObject, X509Certificate } from 'node:crypto';
import { system } from '@keystead/access/authenticator';
import {
  createCertificateRequest,
  generateAgentKey,
} from '@keystead/agent-protocol/certificate-request';
import { MessageType } from '@keystead/agent-protocol/generated/keystead/agent/v1/envelope';
import type { Command } from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { appendSignature } from '@keystead/agent-protocol/message-signature';
import { encodeControlMessage, protocolVersion } from '@keystead/agent-protocol/services';
import { issueCommandSigner } from '@keystead/contracts/agent-link';
import { toId } from '@keystead/contracts/ids';
import { Bus } from '@keystead/messaging/bus';
import { Inject, Injectable } from '@nestjs/common';

export type CommandAction = NonNullable<Command['action']>;

interface CommandKey {
  privateKey: KeyObject;
  certificate: Buffer;
  issuer: Buffer;
  renewAtMs: number;
}

@Injectable()
export class CommandSigner {
  #key: Promise<CommandKey> | undefined;

  constructor(@Inject(Bus) private readonly bus: Pick<Bus, 'call'>) {}

  /** Signs many at once, each an encoded message for its agent. Vault ids are uuids. */
  async sign(
    commands: readonly { vaultId: string; number: number; action: CommandAction }[],
  ): Promise<Buffer[]> {
    const { privateKey, certificate, issuer } = await this.#current();
    return commands.map(({ vaultId, number, action }) => {
      const encoded = encodeControlMessage({
        version: protocolVersion,
        timestampUnixMs: Date.now(),
        vaultId: toId('vault', vaultId),
        messageType: MessageType.POLICY_UPDATE,
        payload: {
          encrypted: false,
          metadataOnly: true,
          content: {
            $case: 'command',
            value: { number, signerCertificate: certificate, signerIssuer: issuer, action },
          },
        },
        signature: Buffer.alloc(0),
      });
      return appendSignature(encoded, privateKey);
    });
  }

  async #current(): Promise<CommandKey> {
    const known = await this.#key?.catch(() => undefined);
    if (known && Date.now() < known.renewAtMs) return known;
    this.#key = this.#make();
    return this.#key;
  }

  async #make(): Promise<CommandKey> {
    const privateKey = await generateAgentKey();
    const { certificateChain } = await this.bus.call(issueCommandSigner, system('command-signer'), {
      csr: createCertificateRequest(privateKey).toString('base64'),
    });
    const [leaf, issuer] = certificateChain.map((pem) => new X509Certificate(pem));
    if (!leaf || !issuer) throw new Error('the registry issued no certificate for commands');
    const now = Date.now();
    return {
      privateKey,
      certificate: leaf.raw,
      issuer: issuer.raw,
      renewAtMs: now + (leaf.validToDate.getTime() - now) / 2,
    };
  }
}
