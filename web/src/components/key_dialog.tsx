// SPDX-License-Identifier: MIT
// Asks for the API key when the server wants one.
import { useEffect, useRef, useState } from "preact/hooks";
import { enterKey, needKey } from "../server";

export function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  const [isRefused, setRefused] = useState(false);
  useEffect(() => {
    if (needKey.value) dialog.current!.showModal();
    else dialog.current!.close();
  }, [needKey.value]);
  const submit = async () => {
    setRefused(false);
    setRefused(!(await enterKey(field.current!.value.trim())));
  };
  return (
    <dialog ref={dialog} class="card" aria-labelledby="key-title" onCancel={() => (needKey.value = false)}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <h2 id="key-title">This server asks for a key</h2>
        <p>It is kept until you close this tab.</p>
        <label for="key">API key</label>
        <input id="key" ref={field} type="password" autocomplete="off" required />
        {isRefused && (
          <p class="refused" role="alert">
            The server does not take this key.
          </p>
        )}
        <div class="buttons">
          <button type="button" class="quiet" onClick={() => (needKey.value = false)}>
            Cancel
          </button>
          <button type="submit" class="primary">
            Continue
          </button>
        </div>
      </form>
    </dialog>
  );
}
