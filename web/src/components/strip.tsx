// SPDX-License-Identifier: MIT
// The live strip: what the server is doing, and what it did for the last answer.
import type { ComponentChildren } from "preact";
import type { Answer } from "../answer";
import { currentAnswer, current } from "../chats";
import { megabytesPerSecond, percent, rate, tokens } from "../format";
import { model } from "../server";
import { branch } from "../tree";
import type { Prefill, Stats } from "../types";

function Figure({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <span class="figure">
      <span class="label">{label}</span> <span class="value">{children}</span>
    </span>
  );
}

function Context({ used }: { used: number }) {
  const total = model.value?.nCtx ?? 0;
  if (!used) return null;
  if (!total) return <Figure label="context">{tokens(used)}</Figure>;
  const share = Math.min(1, used / total);
  return (
    <span class="figure context">
      <span class="label">context</span>{" "}
      <meter min={0} max={1} high={0.9} value={share} aria-label="Context used">
        {percent(share)}
      </meter>{" "}
      <span class="value">
        {tokens(used)} of {tokens(total)}
      </span>
    </span>
  );
}

function Running({ answer }: { answer: Answer }) {
  const phase = answer.phase.value;
  const progress = answer.progress.value;
  if (phase === "waiting") return <Figure label="waiting">for the server</Figure>;
  if (phase === "reading" && progress) {
    const { processed, total, cache, where, time_ms } = progress;
    const nNew = processed - cache;
    return (
      <>
        <span class="figure reading">
          <span class="label">reading the prompt</span>{" "}
          <progress max={total} value={processed} aria-label="Prompt read" />{" "}
          <span class="value">
            {tokens(processed)} of {tokens(total)}
          </span>
        </span>
        {nNew > 0 && time_ms > 0 && <Figure label="speed">{rate(nNew, time_ms)}</Figure>}
        {where === "remote" && <Figure label="read">on the peer</Figure>}
      </>
    );
  }
  const speed = answer.tokensPerSecond.value;
  return <Figure label={phase}>{speed ? `${speed.toFixed(1)} tok/s` : "…"}</Figure>;
}

function Relay({ prefill }: { prefill: Prefill }) {
  const { path, reason, peer, bytes = 0, transfer_seconds: seconds = 0, overlap } = prefill;
  if (path === "local") return reason ? <Figure label="read">here</Figure> : null; // no reason: no peers
  return (
    <>
      <Figure label="read on">{path === "salvaged" ? `${peer}, in part` : peer}</Figure>
      {seconds > 0 && <Figure label="link">{megabytesPerSecond(bytes, seconds)}</Figure>}
      {overlap !== undefined && <Figure label="overlap">{percent(overlap)}</Figure>}
    </>
  );
}

function Done({ stats }: { stats: Stats }) {
  const { nPrompt, nCached, promptMs, nWritten, writeMs, prefill } = stats;
  return (
    <>
      <Figure label="prompt">
        {tokens(nPrompt)}
        {nCached > 0 && `, ${tokens(nCached)} reused`}
        {promptMs > 0 && ` · ${rate(nPrompt - nCached, promptMs)}`}
      </Figure>
      <Figure label="answer">
        {tokens(nWritten)}
        {writeMs > 0 && ` · ${rate(nWritten, writeMs)}`}
      </Figure>
      {prefill && <Relay prefill={prefill} />}
    </>
  );
}

function contextUsed(answer: Answer | undefined, stats: Stats | undefined): number {
  if (!answer) return stats ? stats.nPrompt + stats.nWritten : 0;
  const progress = answer.progress.value;
  const isReading = answer.phase.value === "reading";
  return ((isReading ? progress?.processed : progress?.total) ?? 0) + answer.nPieces.value;
}

export function Strip() {
  const answer = currentAnswer.value;
  const conversation = current.value;
  const stats = conversation && branch(conversation).findLast((message) => message.stats)?.stats;
  return (
    <section class="strip" aria-label="Figures">
      <div class="figures">{answer ? <Running answer={answer} /> : stats ? <Done stats={stats} /> : null}</div>
      <Context used={contextUsed(answer, stats || undefined)} />
    </section>
  );
}
