#!/usr/bin/env node
'use strict';

const { format, parse } = require('./duration');

const [argument] = process.argv.slice(2);
if (argument === undefined) {
  console.error('usage: duration SECONDS | duration "1d 2h"');
  process.exitCode = 2;
} else {
  console.log(/^\d+$/.test(argument) ? format(Number(argument)) : parse(argument));
}
