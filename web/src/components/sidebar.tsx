// SPDX-License-Identifier: MIT
// The list of conversations; on a narrow screen it slides in over the page.
import { signal } from "@preact/signals";
import { useEffect, useRef, useState } from "preact/hooks";
import * as chats from "../chats";
import { setDraft } from "../drafts";
import { exportOne } from "../export";
import { age } from "../format";
import { theme, type Theme } from "../settings";
import * as store from "../store";
import { showToast } from "../toast";
import type { Id, Summary } from "../types";
import { focusComposer } from "./composer";
import { Icon, IconButton } from "./icons";
import { openSettings } from "./settings";

export const isSidebarOpen = signal(false);

async function open(id: Id | null) {
  isSidebarOpen.value = false;
  await chats.show(id);
  focusComposer();
}

export function newChat() {
  void open(null);
}

const entryName = (id: Id) => `entry-${id}`;
const entryLink = (id: Id) => document.getElementById(entryName(id));

async function removeWithUndo(summary: Summary) {
  const next = chats.summaries.value.findIndex(({ id }) => id === summary.id);
  const removed = await chats.remove(summary.id);
  setDraft("", summary.id);
  if (!removed) return;
  // The button that had the focus is gone with its entry.
  const after = chats.summaries.value[next];
  requestAnimationFrame(() => {
    if (document.activeElement !== document.body) return;
    (after ? entryLink(after.id) : document.querySelector<HTMLElement>(".new-chat"))?.focus();
  });
  showToast({
    text: `Deleted “${summary.title}”.`,
    action: { label: "Undo", run: () => void chats.restore(removed) },
  });
}

async function exportConversation(id: Id) {
  const conversation = await store.get(id);
  if (conversation) exportOne(conversation);
}

function RenameField({ summary, onDone }: { summary: Summary; onDone: () => void }) {
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current!.select(), []);
  const finish = (isWanted: boolean) => {
    if (!field.current) return; // the blur of a field that was taken away
    if (isWanted) void chats.rename(summary.id, field.current.value);
    onDone();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.stopPropagation();
    finish(event.key === "Enter");
  };
  return (
    <input
      ref={field}
      aria-label="Title"
      defaultValue={summary.title}
      onKeyDown={onKeyDown}
      onBlur={() => finish(true)}
    />
  );
}

function Entry({ summary }: { summary: Summary }) {
  const [isRenaming, setRenaming] = useState(false);
  const isCurrent = chats.current.value?.id === summary.id;
  const onDone = () => {
    setRenaming(false);
    requestAnimationFrame(() => {
      if (document.activeElement === document.body) entryLink(summary.id)?.focus();
    });
  };
  if (isRenaming) {
    return (
      <li class="entry is-current">
        <RenameField summary={summary} onDone={onDone} />
      </li>
    );
  }
  return (
    <li class={`entry ${isCurrent ? "is-current" : ""}`}>
      <a
        id={entryName(summary.id)}
        dir="auto"
        href={`#/${summary.id}`}
        aria-current={isCurrent ? "page" : undefined}
        onClick={(event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) return;
          event.preventDefault();
          void open(summary.id);
        }}
      >
        {summary.title}
      </a>
      <span class="entry-actions">
        <IconButton icon="pencil" label={`Rename ${summary.title}`} onClick={() => setRenaming(true)} />
        <IconButton
          icon="download"
          label={`Export ${summary.title}`}
          onClick={() => void exportConversation(summary.id)}
        />
        <IconButton icon="trash" label={`Delete ${summary.title}`} onClick={() => void removeWithUndo(summary)} />
      </span>
    </li>
  );
}

function groups(summaries: Summary[]): [string, Summary[]][] {
  const byAge = new Map<string, Summary[]>();
  for (const summary of summaries) {
    const name = age(summary.updatedAt);
    byAge.set(name, [...(byAge.get(name) ?? []), summary]);
  }
  return [...byAge];
}

const themes: { value: Theme; label: string }[] = [
  { value: "light", label: "Light" },
  { value: "system", label: "As the system" },
  { value: "dark", label: "Dark" },
];

function ThemeSwitch() {
  return (
    <fieldset class="theme-switch">
      <legend class="visually-hidden">Theme</legend>
      {themes.map(({ value, label }) => (
        <label key={value} title={label}>
          <input
            type="radio"
            name="theme"
            class="visually-hidden"
            checked={theme.value === value}
            onChange={() => (theme.value = value)}
          />
          <Icon name={value} />
          <span class="visually-hidden">{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Sidebar() {
  const close = () => (isSidebarOpen.value = false);
  return (
    <>
      {isSidebarOpen.value && <div class="scrim" onClick={close} />}
      <nav id="sidebar" class={`sidebar ${isSidebarOpen.value ? "is-open" : ""}`} aria-label="Conversations">
        <button type="button" class="skip" onClick={focusComposer}>
          Skip to the message field
        </button>
        <div class="sidebar-head">
          <span class="brand">tandem</span>
          <IconButton icon="close" label="Close the list" class="only-narrow" onClick={close} />
        </div>
        <button type="button" class="new-chat" title="Ctrl+Shift+O" onClick={newChat}>
          <Icon name="plus" /> New chat
        </button>
        <div class="conversations">
          {groups(chats.summaries.value).map(([name, entries]) => (
            <section key={name}>
              <h2>{name}</h2>
              <ul>
                {entries.map((summary) => (
                  <Entry key={summary.id} summary={summary} />
                ))}
              </ul>
            </section>
          ))}
        </div>
        <div class="sidebar-foot">
          <ThemeSwitch />
          <IconButton icon="sliders" label="Settings" onClick={openSettings} />
        </div>
      </nav>
    </>
  );
}
