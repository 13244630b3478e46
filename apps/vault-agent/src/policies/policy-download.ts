/** A set on its way: its parts in order, bounded by what was announced. */
import type {
  AssignPolicySet,
  PolicySetChunk,
} from '@keystead/agent-protocol/generated/keystead/agent/v1/session';
import { policySetMaxBytes } from '@keystead/agent-protocol/policy-set-signature';
import type { ArrivedSet } from './policy-set-check.ts';

export type Step = { is: 'more' } | { is: 'lost' } | { is: 'complete'; arrived: ArrivedSet };

export class PolicyDownload {
  readonly #offer: AssignPolicySet;
  readonly #parts: Buffer[] = [];
  #offset = 0;

  constructor(offer: AssignPolicySet) {
    this.#offer = offer;
  }

  /** What is asked for next. */
  get request() {
    return { policySet: this.#offer.policySet, offset: this.#offset };
  }

  get isTooLarge(): boolean {
    return this.#offer.totalBytes === 0 || this.#offer.totalBytes > policySetMaxBytes;
  }

  /** `lost`: what comes does not fit together, or there is no more of it. */
  add({ policySet, offset, content }: PolicySetChunk): Step {
    const { totalBytes } = this.#offer;
    if (
      policySet?.digest !== this.#offer.policySet?.digest ||
      policySet?.version !== this.#offer.policySet?.version ||
      offset !== this.#offset ||
      content.length === 0 ||
      this.#offset + content.length > totalBytes
    ) {
      return { is: 'lost' };
    }
    this.#parts.push(content);
    this.#offset += content.length;
    if (this.#offset < totalBytes) return { is: 'more' };
    const { signature, signerChain } = this.#offer;
    return {
      is: 'complete',
      arrived: {
        number: policySet?.version ?? 0,
        digest: policySet?.digest ?? '',
        content: Buffer.concat(this.#parts),
        signature,
        chain: signerChain,
      },
    };
  }
}
