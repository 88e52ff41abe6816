// SPDX-License-Identifier: MIT
// One message, with what can be done about it.
import { memo } from "preact/compat";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Answer } from "../answer";
import * as chats from "../chats";
import { copy } from "../clipboard";
import { siblings } from "../tree";
import type { Conversation, Message } from "../types";
import { IconButton } from "./icons";
import { Markdown } from "./markdown";

const SAYS_COPIED_MS = 1500;

function CopyButton({ text }: { text: string }) {
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    if (!isCopied) return undefined;
    const timer = setTimeout(() => setCopied(false), SAYS_COPIED_MS);
    return () => clearTimeout(timer);
  }, [isCopied]);
  return (
    <IconButton
      icon={isCopied ? "check" : "copy"}
      label={isCopied ? "Copied" : "Copy message"}
      onClick={async () => setCopied(await copy(text))}
    />
  );
}

function Branches({ conversation, message }: { conversation: Conversation; message: Message }) {
  const all = siblings(conversation, message);
  if (all.length < 2) return null;
  const at = all.indexOf(message);
  const step = (by: number) => () => void chats.switchTo(all[at + by]!);
  return (
    <span class="branches" role="group" aria-label="Versions">
      <IconButton icon="left" label="Previous version" disabled={at === 0} onClick={step(-1)} />
      <span>
        {at + 1}
        <span aria-hidden="true">/</span>
        <span class="visually-hidden"> of </span>
        {all.length}
      </span>
      <IconButton icon="right" label="Next version" disabled={at === all.length - 1} onClick={step(1)} />
    </span>
  );
}

interface EditorProps {
  text: string;
  onDone: (text: string | null) => void;
}

function Editor({ text, onDone }: EditorProps) {
  const field = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    field.current!.focus();
    field.current!.setSelectionRange(text.length, text.length);
  }, []);
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      onDone(null);
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  };
  const submit = () => {
    const value = field.current!.value.trim();
    if (value) onDone(value);
  };
  return (
    <form
      class="editor"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <textarea ref={field} aria-label="Edit message" rows={3} dir="auto" defaultValue={text} onKeyDown={onKeyDown} />
      <div class="buttons">
        <button type="button" class="quiet" onClick={() => onDone(null)}>
          Cancel
        </button>
        <button type="submit" class="primary">
          Send
        </button>
      </div>
    </form>
  );
}

interface MessageProps {
  conversation: Conversation;
  message: Message;
  isBusy: boolean;
}

function UserMessage({ conversation, message, isBusy }: MessageProps) {
  const [isEditing, setEditing] = useState(false);
  const editButton = `edit-${message.id}`;
  const wasEditing = useRef(false);
  useEffect(() => {
    // The field that had the focus is gone.
    if (wasEditing.current && !isEditing) document.getElementById(editButton)?.focus();
    wasEditing.current = isEditing;
  }, [isEditing]);
  if (isEditing) {
    const onDone = (text: string | null) => {
      setEditing(false);
      if (text !== null) void chats.edit(message, text);
    };
    return <Editor text={message.text} onDone={onDone} />;
  }
  return (
    <>
      <div class="bubble" dir="auto">{message.text}</div>
      <div class="actions">
        <Branches conversation={conversation} message={message} />
        <CopyButton text={message.text} />
        <IconButton
          id={editButton}
          icon="pencil"
          label="Edit message"
          disabled={isBusy}
          onClick={() => setEditing(true)}
        />
      </div>
    </>
  );
}

function Reasoning({ text, ms, isRunning }: { text: string; ms?: number; isRunning?: boolean }) {
  const [isOpen, setOpen] = useState(false);
  if (!text) return null;
  const seconds = (ms ?? 0) / 1000;
  const duration = seconds < 10 ? seconds.toFixed(1) : seconds.toFixed(0);
  return (
    <details class="reasoning" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary class={isRunning ? "is-running" : ""}>
        {isRunning ? "Reasoning…" : `Reasoning · ${duration} s`}
      </summary>
      {isOpen && <Markdown text={text} isGrowing={isRunning} />}
    </details>
  );
}

const notes: Record<string, string> = {
  length: "Cut off here: the answer reached its limit.",
  stopped: "You stopped this answer.",
  abandoned: "This answer is not finished.", // or it is being written in another tab
};

/** What is left to say and to do once an answer has ended. */
function Ended({ conversation, message, isBusy }: MessageProps) {
  const end = chats.isAbandoned(conversation, message) ? "abandoned" : message.end;
  const note = notes[end ?? ""];
  const again = () => void chats.regenerate(message);
  return (
    <>
      {note && <p class="note">{note}</p>}
      {end === "failed" && (
        <div class="failure" role="alert">
          <p>{message.error}</p>
          <button type="button" disabled={isBusy} onClick={again}>
            Try again
          </button>
        </div>
      )}
      <div class="actions">
        <Branches conversation={conversation} message={message} />
        {message.text && <CopyButton text={message.text} />}
        {end !== "failed" && (
          <IconButton icon="again" label="Regenerate answer" disabled={isBusy} onClick={again} />
        )}
      </div>
    </>
  );
}

/** While it is being made and after that: the same elements, so that what is selected or open stays so. */
function AssistantMessage({ answer, ...props }: MessageProps & { answer?: Answer }) {
  const { message } = props;
  const phase = answer?.phase.value;
  const reasoningMs = answer ? answer.snapshot().reasoningMs : message.reasoningMs;
  return (
    <>
      <Reasoning
        text={answer ? answer.reasoning.value : message.reasoning}
        isRunning={phase === "reasoning"}
        ms={reasoningMs}
      />
      <Markdown text={answer ? answer.text.value : message.text} isGrowing={answer !== undefined} />
      {answer ? phase !== "writing" && <Thinking /> : <Ended {...props} />}
    </>
  );
}

function Thinking() {
  return (
    <p class="thinking" aria-hidden="true">
      <i />
      <i />
      <i />
    </p>
  );
}

export const MessageView = memo(function MessageView(props: MessageProps & { answer?: Answer }) {
  const { message, answer } = props;
  const isUser = message.role === "user";
  return (
    <article
      class={`message ${message.role}`}
      aria-label={isUser ? "You" : "Answer"}
      aria-busy={answer ? "true" : undefined}
    >
      {isUser ? <UserMessage {...props} /> : <AssistantMessage {...props} />}
    </article>
  );
});
