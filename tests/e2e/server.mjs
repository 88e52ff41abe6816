// SPDX-License-Identifier: MIT
// Runs `tandem serve` with the small model for a test.
import { spawn } from "node:child_process";
import { once } from "node:events";

const READY_MS = 60_000;
const MODEL = process.env.TD_MODEL;

/** A running server: { url, stop() }. */
export async function startServer(...options) {
  const args = ["serve", "-m", MODEL, "--port", "0", "--log-format", "none", ...options];
  const child = spawn(process.env.TD_TANDEM, args, { stdio: ["ignore", "inherit", "pipe"] });
  const ended = once(child, "exit");
  let said = "";
  const url = await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no address after ${READY_MS} ms: ${said}`)), READY_MS);
    child.stderr.setEncoding("utf8").on("data", (text) => {
      said += text;
      const address = /https?:\/\/[^\s/]+:\d+/.exec(said)?.[0];
      if (!address) return;
      clearTimeout(timer);
      resolve(address);
    });
    child.on("exit", (code) => reject(new Error(`tandem serve ended with ${code}: ${said}`)));
    child.on("error", reject);
  });
  // Silent from here on, unless it dies: then its last words, such as a sanitizer's, are shown.
  child.on("exit", (code) => code && console.error(said));
  return {
    url,
    /** Ends it as an operator would, and gives its exit status. */
    async stop() {
      child.kill("SIGTERM");
      const [code] = await ended;
      return code;
    },
  };
}
