/** The receivers of the audit that vault.yaml names: those alone can be turned on from afar. No I/O. */
import type { Configuration } from '../../configuration.ts';

export interface DeclaredDestination {
  name: string;
  /** Whether vault.yaml itself has it on; then nobody turns it off. */
  isOn: boolean;
}

export function declaredDestinations({
  syslog,
  forward,
  forward_to_syslog: isSyslogOn,
}: Configuration['audit']): DeclaredDestination[] {
  return [
    { name: syslog.name, isOn: isSyslogOn },
    ...forward.map(({ name, enabled }) => ({ name, isOn: enabled ?? true })),
  ].flatMap(({ name, isOn }) => (name === undefined ? [] : [{ name, isOn }]));
}
