/**
 * What of suspicious activity a policy set may say, and what holds of it here (R4.5). The owner's word in
 * vault.yaml holds, also against a stricter one: a lock outlives the set, and how much a vault may be
 * stopped for a suspicion is the owner's to weigh. No set switches a rule off, by its thresholds neither:
 * of a rule that the owner has written down, it only sharpens what is left open. No I/O.
 */
import type { RolledOutSuspicion } from '@keystead/contracts/policy-set-content';
import { durationMs, type LoadedConfiguration } from '../configuration.ts';
import type { Response, SuspicionRules } from '../observe/suspicion.ts';
import type { Setting } from './rolled-out-configuration.ts';

export interface SuspicionSettings {
  'manyDenials.count': Setting<number>;
  'manyDenials.withinSeconds': Setting<number>;
  'manyDenials.response': Setting<Response>;
  'bulkReading.secrets': Setting<number>;
  'bulkReading.withinSeconds': Setting<number>;
  'bulkReading.response': Setting<Response>;
  'newNetwork.response': Setting<Response>;
  'unusualHour.response': Setting<Response>;
  lockSeconds: Setting<number>;
}

type Local = Pick<LoadedConfiguration, 'configuration' | 'written'>;

export function effectiveSuspicion(
  { configuration, written }: Local,
  fromSet: RolledOutSuspicion = {},
): SuspicionSettings {
  const rules = configuration.monitoring.suspicious_activity;
  const { many_denials: denials, bulk_reading: bulk } = rules;
  const isWritten = (path: string) => written.has(`monitoring.suspicious_activity.${path}`);
  const respond = (path: string, local: Response, said: Response | undefined): Setting<Response> =>
    isWritten(`${path}.response`)
      ? { value: local, source: 'file' }
      : said === undefined
        ? { value: local, source: 'default' }
        : { value: said, source: 'set' };
  const measure = (
    path: string,
    local: number,
    said: number | undefined,
    isOwners: boolean,
    isSharper: (said: number, local: number) => boolean,
  ): Setting<number> => {
    if (isWritten(path)) return { value: local, source: 'file' };
    if (said === undefined || (isOwners && !isSharper(said, local))) {
      return { value: local, source: 'default' };
    }
    return { value: said, source: 'set' };
  };
  const fewer = (said: number, local: number) => said < local;
  const longer = (said: number, local: number) => said > local;
  const seconds = (text: string) => durationMs(text) / 1_000;
  const isLocking = (path: string, local: Response) =>
    isWritten(`${path}.response`) && local === 'lock_identity';
  const saidOfDenials = fromSet.manyDenials ?? {};
  const saidOfBulk = fromSet.bulkReading ?? {};
  const areDenialsOwners = isWritten('many_denials');
  const isBulkOwners = isWritten('bulk_reading');
  return {
    'manyDenials.count': measure(
      'many_denials.count',
      denials.count,
      saidOfDenials.count,
      areDenialsOwners,
      fewer,
    ),
    'manyDenials.withinSeconds': measure(
      'many_denials.within',
      seconds(denials.within),
      saidOfDenials.withinSeconds,
      areDenialsOwners,
      longer,
    ),
    'manyDenials.response': respond('many_denials', denials.response, saidOfDenials.response),
    'bulkReading.secrets': measure(
      'bulk_reading.secrets',
      bulk.secrets,
      saidOfBulk.secrets,
      isBulkOwners,
      fewer,
    ),
    'bulkReading.withinSeconds': measure(
      'bulk_reading.within',
      seconds(bulk.within),
      saidOfBulk.withinSeconds,
      isBulkOwners,
      longer,
    ),
    'bulkReading.response': respond('bulk_reading', bulk.response, saidOfBulk.response),
    'newNetwork.response': respond(
      'new_network',
      rules.new_network.response,
      fromSet.newNetwork?.response,
    ),
    'unusualHour.response': respond(
      'unusual_hour',
      rules.unusual_hour.response,
      fromSet.unusualHour?.response,
    ),
    lockSeconds: measure(
      'lock_duration',
      seconds(rules.lock_duration),
      fromSet.lockSeconds,
      isLocking('many_denials', denials.response) ||
        isLocking('bulk_reading', bulk.response) ||
        isLocking('new_network', rules.new_network.response) ||
        isLocking('unusual_hour', rules.unusual_hour.response),
      longer,
    ),
  };
}

/** What the watch goes by. */
export function suspicionRulesOf(settings: SuspicionSettings): SuspicionRules {
  return {
    manyDenials: {
      count: settings['manyDenials.count'].value,
      withinMs: settings['manyDenials.withinSeconds'].value * 1_000,
      response: settings['manyDenials.response'].value,
    },
    bulkReading: {
      secrets: settings['bulkReading.secrets'].value,
      withinMs: settings['bulkReading.withinSeconds'].value * 1_000,
      response: settings['bulkReading.response'].value,
    },
    newNetwork: { response: settings['newNetwork.response'].value },
    unusualHour: { response: settings['unusualHour.response'].value },
  };
}
