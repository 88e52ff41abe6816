// SPDX-License-Identifier: MIT
// Colours for code, in the languages that answers are mostly written in.
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import c from "highlight.js/lib/languages/c";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import makefile from "highlight.js/lib/languages/makefile";
import markdown from "highlight.js/lib/languages/markdown";
import python from "highlight.js/lib/languages/python";
import ruby from "highlight.js/lib/languages/ruby";
import rust from "highlight.js/lib/languages/rust";
import shell from "highlight.js/lib/languages/shell";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

const languages = {
  bash, c, cpp, csharp, css, diff, go, ini, java, javascript, json, makefile, markdown, python,
  ruby, rust, shell, sql, typescript, xml, yaml,
};
for (const [name, grammar] of Object.entries(languages)) hljs.registerLanguage(name, grammar);

/** A block beyond these is shown plain; while it grows, it would be coloured again and again. */
const MAX_LENGTH = 100_000;
const MAX_LENGTH_GROWING = 10_000;

/** HTML with classes; null: in a language that is not known, or too long. */
export function highlight(code: string, language: string, isGrowing: boolean): string | null {
  if (!hljs.getLanguage(language)) return null;
  if (code.length > (isGrowing ? MAX_LENGTH_GROWING : MAX_LENGTH)) return null;
  return hljs.highlight(code, { language, ignoreIllegals: true }).value;
}
