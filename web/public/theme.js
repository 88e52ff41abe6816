// SPDX-License-Identifier: MIT
// Before the first paint, so that a chosen theme does not flash: see src/theme.ts.
try {
  const theme = localStorage.getItem("tandem.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's theme it is.
}
