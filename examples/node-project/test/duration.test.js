'use strict';

const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const path = require('node:path');
const test = require('node:test');

const { format, parse } = require('../src/duration');

test('nothing is written as zero seconds', () => {
  assert.strictEqual(format(0), '0s');
});

test('units without a count are left out', () => {
  assert.strictEqual(format(86400 + 5), '1d 5s');
});

test('what is written is read back', () => {
  for (const seconds of [0, 1, 59, 60, 3599, 3600, 86399, 90061, 31536000]) {
    assert.strictEqual(parse(format(seconds)), seconds);
  }
});

test('nonsense is refused', () => {
  assert.throws(() => format(-1), RangeError);
  assert.throws(() => format(1.5), RangeError);
  for (const text of ['', '5', '5x', '1h 1h']) assert.throws(() => parse(text), SyntaxError);
});

test('the program prints a duration', () => {
  const cli = path.join(__dirname, '..', 'src', 'cli.js');
  assert.strictEqual(execFileSync(process.execPath, [cli, '90061'], { encoding: 'utf8' }), '1d 1h 1m 1s\n');
});
