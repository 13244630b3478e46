/**
 * What a channel must keep to itself (addresses, which for Slack are credentials, and signing
 * secrets) lies sealed in its row, bound to the organization and the channel: a row copied
 * elsewhere does not open.
 */
import { InstallationKey } from '@keystead/access/sealing';
import { bytes } from '@keystead/access/tenant-work';
import { Inject, Injectable } from '@nestjs/common';

export interface ChannelConfig {
  to?: string[];
  url?: string;
}

interface ChannelKey {
  organizationId: string;
  id: string;
}

@Injectable()
export class ChannelSeals {
  constructor(@Inject(InstallationKey) private readonly key: InstallationKey) {}

  sealConfig(channel: ChannelKey, config: ChannelConfig) {
    return bytes(this.key.seal('channel-config', bound(channel), JSON.stringify(config)));
  }

  openConfig(channel: ChannelKey & { sealedConfig: Uint8Array }): ChannelConfig {
    const plain = this.key.open('channel-config', bound(channel), channel.sealedConfig);
    return JSON.parse(plain.toString('utf8')) as ChannelConfig;
  }

  sealSecret(channel: ChannelKey, secret: string) {
    return bytes(this.key.seal('channel-secret', bound(channel), secret));
  }

  /** The secrets that sign now, the newest first. */
  openSecrets(
    channel: ChannelKey & {
      sealedSecret: Uint8Array | null;
      sealedPrevious: Uint8Array | null;
      previousValidUntil: Date | null;
    },
    now: Date,
  ): string[] {
    const { sealedSecret, sealedPrevious, previousValidUntil } = channel;
    const previous = previousValidUntil && previousValidUntil > now ? sealedPrevious : null;
    return [sealedSecret, previous]
      .filter((sealed) => sealed !== null)
      .map((sealed) => this.key.open('channel-secret', bound(channel), sealed).toString('utf8'));
  }
}

const bound = ({ organizationId, id }: ChannelKey) => `${organizationId}/${id}`;
