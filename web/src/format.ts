// SPDX-License-Identifier: MIT
// Numbers as people read them.
const whole = new Intl.NumberFormat("en");

export function tokens(n: number): string {
  return whole.format(n);
}

export function rate(n: number, ms: number): string {
  const perSecond = (1000 * n) / ms;
  return `${perSecond < 100 ? perSecond.toFixed(1) : whole.format(Math.round(perSecond))} tok/s`;
}

export function percent(share: number): string {
  return `${Math.round(100 * share)} %`;
}

export function megabytesPerSecond(bytes: number, seconds: number): string {
  const value = bytes / seconds / 1e6;
  return `${value < 10 ? value.toFixed(1) : whole.format(Math.round(value))} MB/s`;
}

const DAY_MS = 24 * 60 * 60 * 1000;

/** Which part of the list a conversation belongs to. */
export function age(time: number, now = Date.now()): string {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  if (time >= midnight - 7 * DAY_MS) return "This week";
  return "Earlier";
}
