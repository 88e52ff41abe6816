// SPDX-License-Identifier: MIT
// Asks for the API key when the server wants one.
import { useEffect, useRef } from "preact/hooks";
import { enterKey, needKey } from "../server";

export function KeyDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => {
    if (needKey.value) dialog.current!.showModal();
    else dialog.current!.close();
  }, [needKey.value]);
  return (
    <dialog ref={dialog} class="card" aria-labelledby="key-title" onClose={() => (needKey.value = false)}>
      <form
        method="dialog"
        onSubmit={(event) => {
          event.preventDefault();
          void enterKey(field.current!.value.trim());
        }}
      >
        <h2 id="key-title">This server asks for a key</h2>
        <p>It is kept until you close this tab.</p>
        <label for="key">API key</label>
        <input id="key" ref={field} type="password" autocomplete="off" required />
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
