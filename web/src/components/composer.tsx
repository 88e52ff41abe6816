// SPDX-License-Identifier: MIT
// Where the user writes.
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import * as chats from "../chats";
import { draft, setDraft } from "../drafts";
import { Icon } from "./icons";

export function focusComposer() {
  document.getElementById("prompt")?.focus();
}

/** Grows with its text, up to the limit in the style sheet. */
function useAutoHeight(text: string) {
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const { style } = field.current!;
    style.height = "auto";
    style.height = `${field.current!.scrollHeight}px`;
  }, [text]);
  return field;
}

export function Composer() {
  const text = draft.value;
  const isBusy = chats.currentAnswer.value !== undefined;
  const field = useAutoHeight(text);
  const id = chats.current.value?.id;
  useEffect(() => {
    // On a phone this would bring up the keyboard before anybody asked for it.
    if (matchMedia("(hover: hover)").matches) focusComposer();
  }, [id]);
  useEffect(() => {
    // The button that had the focus may be gone.
    if (document.activeElement === document.body && matchMedia("(hover: hover)").matches) focusComposer();
  }, [isBusy]);

  const submit = () => {
    const message = text.trim();
    if (isBusy || !message) return;
    setDraft("");
    void chats.send(message);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  return (
    <form
      class="composer"
      aria-label="Write a message"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <textarea
        id="prompt"
        ref={field}
        rows={1}
        dir="auto"
        placeholder="Message"
        aria-label="Message"
        aria-describedby="prompt-hint"
        enterkeyhint="send"
        value={text}
        onInput={(event) => setDraft(event.currentTarget.value)}
        onKeyDown={onKeyDown}
      />
      {isBusy ? (
        <button type="button" class="send" aria-label="Stop" title="Stop (Esc)" onClick={chats.stop}>
          <Icon name="stop" />
        </button>
      ) : (
        <button type="submit" class="send" aria-label="Send" title="Send (Enter)" disabled={!text.trim()}>
          <Icon name="send" />
        </button>
      )}
      <p id="prompt-hint" class="hint">
        <span>
          <kbd>Enter</kbd> sends
        </span>
        <span>
          <kbd>Shift</kbd> + <kbd>Enter</kbd> new line
        </span>
        <span>
          <kbd>Esc</kbd> stops
        </span>
      </p>
    </form>
  );
}
