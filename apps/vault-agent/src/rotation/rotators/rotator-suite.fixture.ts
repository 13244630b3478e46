/** What every rotator that changes something elsewhere keeps to. */
import { expect, test } from 'vitest';
import {
  RotationFailure,
  type RotationValue,
  type RotationWork,
  type Rotator,
} from '../rotator.ts';

export interface RotatedWorld {
  rotator: Rotator;
  current: RotationValue;
  /** Whether the value works there, asked in another way than the rotator's. */
  works(value: RotationValue): Promise<boolean>;
  /** Whether old and new work side by side until the old one is retired. */
  overlaps: boolean;
  readSecret?: RotationWork['readSecret'];
}

export function workOf(world: RotatedWorld, current = world.current): RotationWork {
  return {
    secret: { namespace: 'payments', name: 'db/password' },
    current,
    signal: AbortSignal.timeout(20_000),
    readSecret: world.readSecret ?? (() => Promise.reject(new Error('no other secret is needed'))),
  };
}

export function rotatorSuite(name: string, make: () => Promise<RotatedWorld>): void {
  test(`${name}: a new value is another one, and nothing changes by making it`, async () => {
    const world = await make();
    const next = await world.rotator.create(workOf(world));
    expect(next.value).not.toBe(world.current.value);
    expect(await world.works(world.current)).toBe(true);
    expect(await world.works(next)).toBe(false);
    await expect(world.rotator.verify(workOf(world), next)).rejects.toThrow(RotationFailure);
  });

  test(`${name}: applied it works, and applying it again changes nothing`, async () => {
    const world = await make();
    const work = workOf(world);
    const next = await world.rotator.create(work);
    for (let time = 0; time < 2; time += 1) {
      await world.rotator.apply(work, next);
      expect(await world.works(next)).toBe(true);
      expect(await world.works(world.current)).toBe(world.overlaps);
      await world.rotator.verify(work, next);
    }
  });

  test(`${name}: rolled back the value before works, applied or not, once or twice`, async () => {
    const world = await make();
    const work = workOf(world);
    const next = await world.rotator.create(work);
    await world.rotator.rollBack(work, next);
    expect(await world.works(world.current)).toBe(true);
    await world.rotator.apply(work, next);
    for (let time = 0; time < 2; time += 1) {
      await world.rotator.rollBack(work, next);
      expect(await world.works(world.current)).toBe(true);
      await world.rotator.verify(work, world.current);
    }
  });

  test(`${name}: retired the value before works no longer, and the new one does`, async () => {
    const world = await make();
    const work = workOf(world);
    const next = await world.rotator.create(work);
    await world.rotator.apply(work, next);
    for (let time = 0; time < 2; time += 1) {
      await world.rotator.retire(workOf(world, next), world.current);
      expect(await world.works(world.current)).toBe(false);
      expect(await world.works(next)).toBe(true);
    }
    // Round again: from the new one to a third.
    const third = await world.rotator.create(workOf(world, next));
    await world.rotator.apply(workOf(world, next), third);
    expect(await world.works(third)).toBe(true);
  });

  test(`${name}: a step that is out of time ends as one`, async () => {
    const world = await make();
    const late = { ...workOf(world), signal: AbortSignal.abort() };
    await expect(world.rotator.verify(late, world.current)).rejects.toMatchObject({
      code: 'timeout',
    });
  });
}
