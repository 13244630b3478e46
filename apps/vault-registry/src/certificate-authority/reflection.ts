/** @peculiar/x509 needs the reflection polyfill before it loads, and a source of cryptography. */
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { cryptoProvider } from '@peculiar/x509';

cryptoProvider.set(webcrypto);
