// SPDX-License-Identifier: MIT
// The messages of the branch on show, kept scrolled to the newest while the user is there.
import { signal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import * as chats from "../chats";
import { setDraft } from "../drafts";
import { tokens } from "../format";
import { model } from "../server";
import { branch } from "../tree";
import { focusComposer } from "./composer";
import { Icon } from "./icons";
import { MessageView } from "./message";

/** Closer to the end than this counts as being there. */
const NEAR_PX = 80;

const isAtEnd = signal(true);

const examples = [
  "Explain what a hash table is, with a small example.",
  "Write a polite note to a neighbour about a noisy dog.",
  "Write a Python function that finds the longest word in a text.",
];
/** What the small model that comes with tandem was taught. */
const smallExamples = ["What is 17 + 25?", "Tell me a story about a fox in a harbour.", "Count from 3 to 7."];

function Empty() {
  const { id, nCtx } = model.value ?? { id: "", nCtx: 0 };
  const use = (text: string) => () => {
    setDraft(text);
    focusComposer();
  };
  return (
    <div class="empty">
      <h2>What is on your mind?</h2>
      <p>
        {id && `${id}${nCtx ? ` keeps ${tokens(nCtx)} tokens in mind` : " listens"}. `}
        Everything stays on your machines.
      </p>
      <ul>
        {(id.startsWith("tandem-mini") ? smallExamples : examples).map((text) => (
          <li key={text}>
            <button type="button" onClick={use(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

export function Thread() {
  const frame = useRef<HTMLDivElement>(null);
  const content = useRef<HTMLDivElement>(null);
  const conversation = chats.current.value;
  const answer = chats.currentAnswer.value;

  const toEnd = () => {
    const { current: element } = frame;
    if (element) element.scrollTop = element.scrollHeight;
  };
  useLayoutEffect(toEnd, [conversation?.id, answer]);
  useEffect(() => {
    const observer = new ResizeObserver(() => isAtEnd.peek() && toEnd());
    observer.observe(content.current!);
    return () => observer.disconnect();
  }, []);
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = frame.current!;
    isAtEnd.value = scrollHeight - scrollTop - clientHeight < NEAR_PX;
  };

  return (
    <div class="thread" ref={frame} onScroll={onScroll} tabIndex={0} role="region" aria-label="Messages">
      <div class="column" ref={content}>
        {conversation ? (
          branch(conversation).map((message) => (
            <MessageView
              key={message.id}
              conversation={conversation}
              message={message}
              isBusy={answer !== undefined}
              answer={answer?.messageId === message.id ? answer : undefined}
            />
          ))
        ) : (
          <Empty />
        )}
      </div>
      {!isAtEnd.value && (
        <button type="button" class="to-end" aria-label="To the newest message" onClick={toEnd}>
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}
