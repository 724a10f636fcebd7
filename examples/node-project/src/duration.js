'use strict';

const UNITS = [['d', 86400], ['h', 3600], ['m', 60], ['s', 1]];

/** Writes a whole number of seconds: 90061 is "1d 1h 1m 1s", 0 is "0s". */
function format(seconds) {
  if (!Number.isSafeInteger(seconds) || seconds < 0) {
    throw new RangeError(`not a duration: ${seconds}`);
  }
  const parts = [];
  let rest = seconds;
  for (const [unit, size] of UNITS) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count > 0) parts.push(`${count}${unit}`);
  }
  return parts.join(' ') || '0s';
}

/** Reads what `format` writes; units may come in any order but only once each. */
function parse(text) {
  const seen = new Set();
  let total = 0;
  for (const part of text.trim().split(/\s+/)) {
    const match = /^(\d+)([dhms])$/.exec(part);
    if (!match || seen.has(match[2])) throw new SyntaxError(`not a duration: ${text}`);
    seen.add(match[2]);
    total += Number(match[1]) * UNITS.find(([unit]) => unit === match[2])[1];
  }
  return total;
}

module.exports = { format, parse };
