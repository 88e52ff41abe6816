// SPDX-License-Identifier: MIT
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig } from "vite";

// Writes a FILE.gz beside each asset: the server sends those as they are. The page itself stays
// plain, so that `curl /` can be read.
function gzipAssets() {
  let folder;
  return {
    name: "gzip-assets",
    apply: "build",
    configResolved(config) {
      folder = join(config.root, config.build.outDir, config.build.assetsDir);
    },
    closeBundle() {
      for (const file of readdirSync(folder)) {
        const path = join(folder, file);
        writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }));
      }
    },
  };
}

const server = process.env.TANDEM_URL ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [gzipAssets()],
  build: {
    target: "es2022",
    assetsInlineLimit: 0, // data: URLs would need holes in the Content-Security-Policy
    modulePreload: false,
    reportCompressedSize: false,
  },
  server: {
    proxy: { "/v1": server, "/health": server },
  },
});
