// SPDX-License-Identifier: MIT
// System prompt and sampling, in a dialog.
import { useRef, useState } from "preact/hooks";
import * as chats from "../chats";
import { exportAll } from "../export";
import { ImportError } from "../import";
import { defaults, settings, type Effort, type Sampling } from "../settings";
import { showToast } from "../toast";
import { IconButton } from "./icons";

const DIALOG = "settings";

function dialog(): HTMLDialogElement {
  return document.getElementById(DIALOG) as HTMLDialogElement;
}

export function openSettings() {
  dialog().showModal();
}

interface NumberRow {
  key: keyof Sampling;
  label: string;
  help: string;
  min?: number;
  max?: number;
  step: number | "any";
}

const rows: NumberRow[] = [
  { key: "temperature", label: "Temperature", help: "0 is always the likeliest word; 1 is lively", min: 0, max: 2, step: 0.05 },
  { key: "top_p", label: "Top p", help: "Share of the likeliest words to choose from", min: 0, max: 1, step: 0.01 },
  { key: "top_k", label: "Top k", help: "Number of words to choose from", min: 0, step: 1 },
  { key: "min_p", label: "Min p", help: "Least chance, compared with the likeliest", min: 0, max: 1, step: 0.01 },
  { key: "presence_penalty", label: "Presence penalty", help: "Against words that were said", min: -2, max: 2, step: 0.1 },
  { key: "frequency_penalty", label: "Frequency penalty", help: "Against words that were said often", min: -2, max: 2, step: 0.1 },
  { key: "max_tokens", label: "Longest answer", help: "In tokens", min: 1, step: 1 },
  { key: "seed", label: "Seed", help: "The same seed gives the same answer", step: 1 },
];

function setSampling(key: keyof Sampling, field: HTMLInputElement) {
  if (!field.validity.valid) return;
  const sampling = { ...settings.value.sampling };
  if (field.value === "") delete sampling[key];
  else sampling[key] = field.valueAsNumber;
  settings.value = { ...settings.value, sampling };
}

function NumberField({ row }: { row: NumberRow }) {
  const { key, label, help, ...limits } = row;
  const helpId = `${key}-help`;
  return (
    <div class="field">
      <label for={key}>{label}</label>
      <input
        id={key}
        type="number"
        inputMode="decimal"
        placeholder="default"
        aria-describedby={helpId}
        value={settings.value.sampling[key] ?? ""}
        onChange={(event) => setSampling(key, event.currentTarget)}
        {...limits}
      />
      <p id={helpId} class="help">
        {help}
      </p>
    </div>
  );
}

const efforts: { value: Effort; label: string }[] = [
  { value: "", label: "Default" },
  { value: "low", label: "Low" },
  { value: "medium", label: "Medium" },
  { value: "high", label: "High" },
];

/** All conversations to a file, and back. */
function Files({ onDone }: { onDone: () => void }) {
  const field = useRef<HTMLInputElement>(null);
  const [refusal, setRefusal] = useState("");
  const take = async (file: File | undefined) => {
    if (!file) return;
    setRefusal("");
    try {
      showToast({ text: await chats.importFile(file) });
      onDone();
    } catch (error) {
      if (!(error instanceof ImportError)) throw error;
      setRefusal(error.message);
    } finally {
      field.current!.value = ""; // the same file can be chosen again
    }
  };
  return (
    <section>
      <h3>Conversations</h3>
      <p class="help">They are kept in this browser. A file takes them to another one.</p>
      <div class="row">
        <button type="button" class="quiet" onClick={() => void exportAll()}>
          Export all conversations
        </button>
        <button type="button" class="quiet" onClick={() => field.current!.click()}>
          Import conversations
        </button>
        <input
          ref={field}
          type="file"
          accept=".json,application/json"
          hidden
          aria-label="File with conversations"
          onChange={(event) => void take(event.currentTarget.files?.[0])}
        />
      </div>
      {refusal && (
        <p class="refused" role="alert" ref={(element) => element?.scrollIntoView({ block: "nearest" })}>
          {refusal}
        </p>
      )}
    </section>
  );
}

export function SettingsDialog() {
  const conversation = chats.current.value;
  const ownSystem = conversation ? conversation.system : chats.draftSystem.value;
  const { system, effort } = settings.value;
  const close = () => dialog().close();
  return (
    <dialog
      id={DIALOG}
      class="sheet"
      aria-labelledby="settings-title"
      onClick={(event) => {
        if (event.target === event.currentTarget) close(); // beside the sheet
      }}
    >
      <div class="sheet-body">
        <header>
          <h2 id="settings-title">Settings</h2>
          <IconButton icon="close" label="Close settings" onClick={close} />
        </header>
        <section>
          <h3>System prompt</h3>
          <div class="field wide">
            <label for="system">For all conversations</label>
            <textarea
              id="system"
              rows={3}
              placeholder="None"
              value={system}
              onChange={(event) => (settings.value = { ...settings.value, system: event.currentTarget.value })}
            />
          </div>
          <div class="field wide">
            <label for="own-system">For this conversation</label>
            <textarea
              id="own-system"
              rows={3}
              placeholder="The one above"
              value={ownSystem ?? ""}
              onChange={(event) => void chats.setSystem(event.currentTarget.value || undefined)}
            />
          </div>
        </section>
        <section>
          <h3>Answers</h3>
          <div class="field">
            <label for="effort">Reasoning effort</label>
            <select
              id="effort"
              value={effort}
              onChange={(event) =>
                (settings.value = { ...settings.value, effort: event.currentTarget.value as Effort })
              }
            >
              {efforts.map(({ value, label }) => (
                <option key={value} value={value}>
                  {label}
                </option>
              ))}
            </select>
            <p class="help">How long it thinks before it answers</p>
          </div>
          {rows.map((row) => (
            <NumberField key={row.key} row={row} />
          ))}
          <div class="row">
            <button
              type="button"
              class="quiet"
              onClick={() => (settings.value = { ...defaults, system: settings.value.system })}
            >
              Reset answers
            </button>
          </div>
        </section>
        <Files onDone={close} />
      </div>
    </dialog>
  );
}
